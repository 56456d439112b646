"""Gates: the targets of a space, read strictly and held against figures."""

import math

import pytest

from sweeps.errors import RegistryError
from sweeps.space.gates import Gate, judge, parse_gate, parse_gates


def test_a_target_is_a_comparison_with_a_number():
    assert parse_gate("test/psnr", ">= 25") == Gate("test/psnr", ">=", 25.0)
    assert parse_gate("test/lpips", " <0.15 ") == Gate("test/lpips", "<", 0.15)
    assert parse_gate("test/x", "> 1e-3") == Gate("test/x", ">", 1e-3)


@pytest.mark.parametrize("text", ["25", ">= many", "=> 25", ">= 25 dB", ">= nan", ">= inf", "", 25, None])
def test_anything_else_is_refused_with_the_place_and_an_example(text):
    with pytest.raises(RegistryError) as refusal:
        parse_gate("test/psnr", text, where="losses.yaml: gates")
    expected = f"losses.yaml: gates: test/psnr: expected a comparison with a number, got {text!r}"
    assert str(refusal.value) == f'{expected} — write it like ">= 25".'


@pytest.mark.parametrize(
    ("target", "value", "passes"),
    [(">= 25", 25.0, True), ("> 25", 25.0, False), ("<= 0.15", 0.15, True), ("< 0.15", 0.15, False)],
)
def test_the_threshold_itself_passes_only_where_the_operator_says_so(target, value, passes):
    assert judge([parse_gate("test/x", target)], {"test/x": value})[0].passed is passes


def test_a_metric_that_is_not_available_fails_its_gate_and_says_so():
    (result,) = judge([parse_gate("test/lpips", "<= 0.15")], {"test/psnr": 30.0})
    assert not result.passed
    assert result.reason == "test/lpips not available, wanted <= 0.15"


@pytest.mark.parametrize("target", [">= 25", "<= 25", "> 25", "< 25"])
def test_a_metric_that_is_not_a_number_fails_every_gate(target):
    (result,) = judge([parse_gate("test/psnr", target)], {"test/psnr": math.nan})
    assert not result.passed
    assert result.as_plain()["value"] is None


def test_results_keep_the_order_of_the_space_and_become_plain_values():
    gates = parse_gates({"test/psnr": ">= 25", "test/ssim": ">= 0.9"})
    assert [result.as_plain() for result in judge(gates, {"test/ssim": 0.8, "test/psnr": 26.0})] == [
        {"metric": "test/psnr", "target": ">= 25", "value": 26.0, "passed": True},
        {"metric": "test/ssim", "target": ">= 0.9", "value": 0.8, "passed": False},
    ]


@pytest.mark.parametrize(
    ("target", "value", "line"),
    [
        (">= 25", 25.3, "25.3 >= 25 passed"),
        (">= 25", 24.1, "24.1 >= 25 failed"),
        (">= 25", 24.99999, "24.99999 >= 25 failed"),
        (">= 25", 25.0, "25 >= 25 passed"),
        ("<= 0.15", 0.123456, "0.1235 <= 0.15 passed"),
        ("< 0.15", 0.15, "0.15 < 0.15 failed"),
        (">= 0.9", math.nan, "nan >= 0.9 failed"),
        (">= 0.9", None, "not available >= 0.9 failed"),
    ],
)
def test_a_result_is_one_line_that_does_not_round_its_own_verdict_away(target, value, line):
    (result,) = judge([parse_gate("test/x", target)], {} if value is None else {"test/x": value})
    assert result.line == line
