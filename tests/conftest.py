"""Hypothesis profiles (HYPOTHESIS_PROFILE=quick|thorough) and the folder of optional texts (NUMPYLLM_DATA)."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # before NumPy is imported: two spin against whatever else runs

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("hugging_face")

settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", max_examples=250, deadline=None, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def data_dir():
    """The folder with the optional texts and vocabularies; the test is skipped where there is none."""
    folder = os.environ.get("NUMPYLLM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("NUMPYLLM_DATA names no folder with the optional texts")
    return Path(folder)
