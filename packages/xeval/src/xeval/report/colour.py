"""Colours that a colour-blind reader tells apart."""

# The map "cividis" (Nuñez, Anderton, Renslow 2018): lightness rises evenly, hue never passes through red or green.
_CIVIDIS = (
    (0, 34, 78), (0, 49, 112), (42, 63, 109), (67, 78, 108), (87, 93, 109), (106, 108, 113), (125, 124, 120),
    (145, 139, 120), (165, 156, 116), (188, 174, 108), (210, 192, 96), (233, 211, 78), (254, 232, 56),
)  # fmt: skip

# Okabe and Ito's eight, without yellow, which no thin mark on white survives.
MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6b6b")


def cividis(share: float) -> tuple[int, int, int]:
    """The colour at a share from 0 (dark blue) to 1 (yellow)."""
    place = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    index = min(int(place), len(_CIVIDIS) - 2)
    rest = place - index
    low, high = _CIVIDIS[index], _CIVIDIS[index + 1]
    red, green, blue = (round(a + (b - a) * rest) for a, b in zip(low, high, strict=True))
    return red, green, blue


def hex_of(colour: tuple[int, int, int]) -> str:
    """A colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def ink_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever contrasts more with the colour."""
    light = luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance as the accessibility guidelines (WCAG 2) define it."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink_on_hex(colour: str) -> str:
    """`ink_on` for a colour written as #rrggbb."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return ink_on((red, green, blue))
