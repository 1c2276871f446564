"""What coremltools 9.0 cannot translate, or gets wrong, and where upstream knows of it."""

from __future__ import annotations

from dataclasses import dataclass

_URL = "https://github.com/apple/coremltools"


@dataclass(frozen=True)
class Lack:
    """One kind of operation.

    Attributes:
        what: The operations, as PyTorch names them.
        why: What goes wrong.
        issues: Numbers of upstream's issues and pull requests.
        note: On those.
    """

    what: str
    why: str
    issues: tuple[int, ...] = ()
    note: str = ""

    def links(self) -> str:
        """The issues as links of Markdown."""
        return ", ".join(f"[#{number}]({_URL}/issues/{number})" for number in self.issues)


LACKS = (
    Lack(
        "`int`, `bool` of a constant of one element",
        "NumPy 2.4 converts only arrays without dimensions",
        (2633, 2632, 2755),
        "merged for `int` after 9.0; other places open",
    ),
    Lack("`new_ones`, `bitwise_or` and others that masks are made with", "missing", (2668,), "merged after 9.0"),
    Lack("`__and__`, `__or__`, `__xor__` and in place", "missing", (2584, 2816), "merged after 9.0"),
    Lack(
        "constants that float16 cannot hold, as in masks (−3.4·10³⁸)",
        "become infinite, and softmax of a row of them NaN",
        (2669,),
        "merged after 9.0",
    ),
    Lack("`upsample_bicubic2d` and resizing with anti-aliasing", "missing", (1747, 2340, 2818), "merged after 9.0"),
    Lack("`Tensor.unfold`", "missing", (2599, 2672), "merged after 9.0"),
    Lack("`masked_scatter`", "missing", (2638,), "open"),
    Lack("`index_put` with several indices or another type", "wrong or refused", (2040,), "open"),
    Lack("`as_strided`", "missing; memory is not always contiguous"),
    Lack("`bucketize`, `searchsorted` with a right side, `isin`, `isinf`", "missing"),
    Lack("`scatter_reduce`, `scatter` with values of another type", "missing or refused"),
    Lack("`diff`, `cdist`, `lerp`, `fmod`, `trunc`, `prod`, `var_mean`, `addcmul`, `erfc`, `log_sigmoid`", "missing"),
    Lack("`repeat` that raises the rank, `cumsum` over a negative axis or of booleans, negative `pad`", "refused"),
    Lack("`multiply`, `greater` and further second names", "missing"),
)
"""Looked up in upstream's tracker; without a number where no issue was found."""
