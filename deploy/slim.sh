#!/usr/bin/env bash
# Remove from SITE-PACKAGES what serving does not need (headers, tests, the compiler of torch.compile, installers, and what
# of onnxruntime is for C programs and for making models). sympy, networkx and mpmath stay because torch.jit imports them.
# Usage: slim.sh SITE-PACKAGES
set -euo pipefail
cd "$1"

rm -rf torch/include torch/share torch/test torch/_inductor torch/lib/libtorchbind_test.so
rm -f torch/testing/_internal/py312_*.py # does not compile on older Pythons
[ ! -d torch/bin ] || find torch/bin -type f ! -name torch_shm_manager -delete
rm -rf onnxruntime/{quantization,transformers,tools,datasets,backend} onnxruntime/capi/libonnxruntime.so*
rm -rf faker faker-*.dist-info pip pip-*.dist-info setuptools setuptools-*.dist-info pkg_resources _distutils_hack distutils-precedence.pth
find . -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.c' -o -name '*.h' -o -name '*.a' \) -delete
# Only debuggers need the symbols. Strip torch alone: it corrupts libraries patched by auditwheel (numpy's OpenBLAS).
[ ! -d torch ] || find torch -type f -name '*.so*' -exec sh -c 'for f; do strip --strip-unneeded "$f" 2>/dev/null || true; done' sh {} +
