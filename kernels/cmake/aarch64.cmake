# Any 64-bit ARM: cmake -S kernels -B build -DCMAKE_TOOLCHAIN_FILE=kernels/cmake/aarch64.cmake
# What a CPU has beyond NEON (dot products, int8 matrices) is found when the program runs.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_C_FLAGS_INIT "-march=armv8-a")
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
find_program(BFCN_QEMU qemu-aarch64)
if(BFCN_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${BFCN_QEMU};-cpu;max)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
