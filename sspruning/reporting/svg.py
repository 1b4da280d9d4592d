"""SVG elements as text, scales and round tick marks: what charts are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Scale", "element", "ticks"]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values to places on the page."""

    low: float
    high: float
    start: float
    """Place of ``low``."""
    stop: float
    """Place of ``high``."""

    def __call__(self, value: float) -> float:
        """Place of ``value``; the middle where all values are equal."""
        if self.high == self.low:
            return (self.start + self.stop) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def _text(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return str(value)


def element(name: str, *content: str | Markup, **attributes: float | str) -> Markup:
    """One element; all content and values are escaped unless they are `Markup`.

    Args:
        name: of the element.
        content: text or elements.
        attributes: an underscore at the end is dropped, others become hyphens; numbers have two decimals.
    """
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"' for key, value in attributes.items()
    )
    inside = "".join(escape(part) for part in content)
    return Markup(f"<{name}{listed}>{inside}</{name}>")  # noqa: S704 - every part is escaped above


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within [low, high], evenly spaced, at most ``most`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [number * step for number in range(first, last + 1)]
    return [low, high]
