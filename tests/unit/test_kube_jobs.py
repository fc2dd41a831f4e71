"""Jobs of the operator: what they are not retried for."""

import pytest

from dynamo_entry import errors
from dynamo_entry.kube import podspec, podtemplate
from dynamo_entry.kube.operator import jobs

#: Only a restore ends with it.
ARCHIVE_DOES_NOT_FIT = 181


def test_a_job_is_not_retried_where_no_failure_of_that_code_can_be_helped():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.CheckpointError)
        and kind is not errors.CheckpointError
    ]
    final = {kind.exit_code for kind in kinds} - {kind.exit_code for kind in kinds if kind.retry}
    assert {*jobs._POINTLESS} == final - {ARCHIVE_DOES_NOT_FIT} | {126, 127}


def test_a_template_that_is_nested_too_deeply_is_refused_by_name():
    """One object must not keep the operator from looking at the others."""
    nested = {}
    for _ in range(2_000):
        nested = {"a": nested}
    with pytest.raises(podspec.Unfit, match="nested too deeply"):
        podtemplate.checked({"podTemplateSpec": nested})
