"""Build of bfcn_mm: two packages, a top-level import hook, and the extras of README.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
TRITON = 'triton>=3.4; platform_system == "Linux" and platform_machine in "x86_64 aarch64"'
NVRTC = 'nvidia-cuda-nvrtc>=13; platform_system == "Linux" and platform_machine in "x86_64 aarch64"'
TORCH = 'torch>=2.1'
HOOK = 'bfcn_mm_compat.pth'


class BuildWithHook(build_py):
    """Also put the hook's .pth at the top of site-packages, in editable installs too."""

    def run(self):
        super().run()
        self.copy_file(HOOK, str(self._pth()))

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), str(self._pth())]

    def _pth(self):
        # An editable install ships no build_lib: its install_lib is the wheel being written.
        editable = getattr(self, 'editable_mode', False)
        top = self.get_finalized_command('install').install_lib if editable else self.build_lib
        return Path(top, HOOK)


def version():
    text = (ROOT / 'bfcn_mm' / '__init__.py').read_text()
    return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


setup(
    name='bfcn_mm',
    version=version(),
    description='Low-bit segmentation networks: one key in an MMSegmentation config',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=[
        *find_packages(include=['bfcn_mm', 'bfcn_mm.*']),
        *find_packages('kernels', include=['bfcn_kernels', 'bfcn_kernels.*']),
    ],
    package_dir={'bfcn_kernels': 'kernels/bfcn_kernels'},
    py_modules=['_bfcn_mm_compat', '_bfcn_command'],
    entry_points={'console_scripts': ['bfcn = _bfcn_command:main']},
    package_data={
        'bfcn_kernels': [
            'cpu/**/*.[ch]',
            'cpu/**/*.inc',
            'cpu/prebuilt/*/*.so',  # of wheels for one machine: bfcn_kernels/cpu/build.py
            'triton/*.cu',
        ]
    },
    cmdclass={'build_py': BuildWithHook},
    install_requires=['numpy'],  # what bfcn_kernels runs packed models with, in numpy and in C
    extras_require={
        # mmsegmentation forgets ftfy and regex; mmengine reads installed packages by pkg_resources.
        'mmseg': [
            TORCH,
            'mmsegmentation==1.2.2',
            'mmengine==0.10.7',
            'mmcv-lite==2.1.0',
            'ftfy',
            'regex',
            'setuptools<82',
        ],
        # mmcv-lite would bring stock mmengine, whose files lie where onedl-mmengine's do.
        'onedl': [
            TORCH,
            'onedl-mmsegmentation==1.4.2',
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
        ],
        'export': ['gguf'],
        'run': ['opencv-python-headless', 'tqdm'],
        'demo': ['gguf', 'onnx', 'onnxruntime'],
        'bench': ['gguf', 'matplotlib', 'nncf', 'onnx', 'onnxruntime', 'openvino'],
        'triton': [TORCH, TRITON],
        'dev': [
            'clang-format',
            'cmake',
            'gguf',
            'matplotlib',
            'onnx',
            'onnxruntime',
            'pytest',
            'pytest-xdist',
            'ruff',
            'tensorboard',
            TRITON,
            NVRTC,
        ],
    },
)
