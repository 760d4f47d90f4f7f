"""The numbers that laws and traps quote, computed anew from their definitions with mpmath."""

from __future__ import annotations

import mpmath
import pytest

from sftspec.properties.articles import articles


def expected_maximum(n: int) -> mpmath.mpf:
    """E[max of n standard normals] = ∫ x n φ(x) Φ(x)^(n-1) dx (David and Nagaraja, Order Statistics)."""
    return mpmath.quad(
        lambda x: x * n * mpmath.npdf(x) * mpmath.ncdf(x) ** (n - 1), [-12, -6, -3, 0, 1, 2, 3, 4, 6, 12]
    )


def softmax(logits, temperature=1) -> list[mpmath.mpf]:
    powers = [mpmath.exp(mpmath.mpf(z) / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def kl(p, q) -> mpmath.mpf:
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))


def pull(temperature) -> mpmath.mpf:
    """The length of T (p_s - p_t), from equal logits to (3, 1, 0, -2)."""
    teacher = softmax((3, 1, 0, -2), temperature)
    return temperature * mpmath.norm([mpmath.mpf(1) / 4 - p for p in teacher])


def shown(value, digits: int) -> str:
    return f"{float(value):.{digits}f}"


def quoted() -> list[tuple[str, str]]:
    first, mirrored, other = softmax((3, 0, 0)), softmax((0, 3, 0)), softmax((0, 1, 0))
    ratio = {n: expected_maximum(n) / mpmath.sqrt(2 * mpmath.log(n)) for n in (4, 64, 1024)}
    short = 1 - mpmath.sqrt(mpmath.log(1024)) / expected_maximum(1024)
    centred = mpmath.norm([2.5, 0.5, -0.5, -2.5]) / 4
    return [
        ("BN-EMAX", f"{shown(1 / mpmath.sqrt(mpmath.pi), 4)} (N=2)"),
        *(("BN-EMAX", f"{shown(expected_maximum(n), 4)} ({n})") for n in (4, 16, 64, 1024)),
        ("BN-ASYM", f"{shown(ratio[4], 2)} (N=4), {shown(ratio[64], 2)} (64), {shown(ratio[1024], 2)} (1024)"),
        ("BN-ASYM", f"{shown(100 * short, 0)} % too small at N = 1024"),
        ("KD-T2", f"{shown(pull(0.5), 3)} (T=0.5)"),
        *(("KD-T2", f"{shown(pull(t), 3)} ({t})") for t in (1, 2, 4, 10)),
        ("KD-T2", f"‖c_t‖/V = {shown(centred, 3)}"),
        ("H17", f"{shown(kl(first, mirrored), 3)} between"),
        ("H17", f"{shown(kl(first, other), 3)}, and back {shown(kl(other, first), 3)}"),
    ]


@pytest.mark.parametrize("name, text", quoted())
def test_a_number_is_what_its_definition_gives(name, text):
    item = articles()[name]
    assert text in f"{item.sentence} {item.fields}"


def test_segments_of_three_tokens_double_a_denominator_that_subtracts_borders_twice():
    """H24: (T - N) / (T - 2N + 1) of N segments of 3 tokens, T = 3N, tends to 2."""
    assert "about 2" in articles()["H24"].fields["suite"]
    assert shown(mpmath.mpf(2 * 1000) / (1000 + 1), 1) == "2.0"
