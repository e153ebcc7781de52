# Everything that is installed can be moved as a whole, and follows `cmake --install --prefix`.
install(TARGETS bfcn EXPORT bfcn)
set(config ${CMAKE_INSTALL_LIBDIR}/cmake/bfcn)
install(EXPORT bfcn NAMESPACE bfcn:: FILE bfcn-targets.cmake DESTINATION ${config})
configure_package_config_file(cmake/bfcn-config.cmake.in bfcn-config.cmake
                              INSTALL_DESTINATION ${config})
write_basic_package_version_file(bfcn-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bfcn-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/bfcn-config-version.cmake DESTINATION ${config})

# The programs find a shared library beside them, wherever the tree was moved.
if(BFCN_TOOLS)
  if(APPLE)
    set(origin @loader_path)
  else()
    set(origin $ORIGIN)
  endif()
  if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_BINDIR}")
    set(rpath ${CMAKE_INSTALL_FULL_LIBDIR})
  else()
    file(RELATIVE_PATH rpath /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
    set(rpath ${origin}/${rpath})
  endif()
  set_target_properties(bfcn-run bfcn-bench PROPERTIES INSTALL_RPATH ${rpath})
  install(TARGETS bfcn-run bfcn-bench)
endif()

# bfcn.pc names its prefix from where it lies. Where CMAKE_INSTALL_LIBDIR is absolute it cannot, and
# the prefix is the one known when it is installed.
foreach(folder LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${folder}}")
    set(pc_${folder} "${CMAKE_INSTALL_${folder}}")
  else()
    set(pc_${folder} "\${prefix}/${CMAKE_INSTALL_${folder}}")
  endif()
endforeach()
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
  string(REGEX REPLACE "/$" "" up "${up}")
  set(pc_prefix "\${pcfiledir}/${up}")
else()
  set(pc_prefix @CMAKE_INSTALL_PREFIX@)
  # CMake 3.25 takes a file of the same second for the same file: the old one goes first.
  install(CODE "
    configure_file(\"${CMAKE_CURRENT_BINARY_DIR}/bfcn.pc.in\"
                   \"${CMAKE_CURRENT_BINARY_DIR}/bfcn.pc\" @ONLY)
    file(REMOVE \"\$ENV{DESTDIR}${CMAKE_INSTALL_LIBDIR}/pkgconfig/bfcn.pc\")")
endif()
# Who links a static library links what it needs, too.
if(BUILD_SHARED_LIBS)
  set(pc_rest "\nLibs.private: -lm -pthread")
else()
  set(pc_rest " -lm -pthread")
endif()
configure_file(cmake/bfcn.pc.in bfcn.pc.in @ONLY)
configure_file(${CMAKE_CURRENT_BINARY_DIR}/bfcn.pc.in bfcn.pc COPYONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bfcn.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
