"""The kernels that a CPU can run here, as parameters of tests."""

from __future__ import annotations

import pytest

from lorikeet_adapters.native.library import functions

ON_CPU = [
    "reference",
    "torch",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(not functions(), reason="the package was installed without a C compiler"),
    ),
]
