"""Pictures of puzzles: drawn four times as large and scaled down, so that lines and letters are smooth."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw, ImageFont

SCALE = 4

WHITE = (255, 255, 255)
INK = (38, 44, 54)
FAINT = (206, 211, 219)
GREEN, RED, BLUE, ORANGE = (46, 160, 82), (214, 60, 56), (48, 98, 204), (222, 144, 40)
LIGHT, DARK = (240, 228, 206), (176, 137, 104)  # squares of a board
PAPERS = ((255, 255, 255), (250, 246, 236), (236, 243, 250), (240, 248, 240))

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """A square picture of `side` pixels; every coordinate and width is in these pixels."""

    def __init__(self, side: int, paper: Colour = WHITE) -> None:
        self.side = side
        self._image = Image.new("RGB", (side * SCALE, side * SCALE), paper)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        """A line with round ends and corners."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * SCALE)), joint="curve")
        for x, y in points:
            self.disc((x, y), width / 2, colour)

    def disc(self, centre: Point, radius: float, fill: Colour | None, outline: Colour | None = None, width: float = 0.0) -> None:
        x, y, r = (value * SCALE for value in (*centre, radius))
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=outline, width=round(width * SCALE))

    def box(self, corner: Point, size: float, fill: Colour, outline: Colour | None = None, width: float = 0.0, radius: float = 0.0) -> None:
        """A square whose upper left corner is `corner`, with rounded corners of `radius`."""
        x, y, length = corner[0] * SCALE, corner[1] * SCALE, size * SCALE
        self._draw.rounded_rectangle(
            (x, y, x + length - 1, y + length - 1), radius=radius * SCALE, fill=fill, outline=outline, width=round(width * SCALE)
        )

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def text(self, centre: Point, text: str, size: float, colour: Colour = INK) -> None:
        """Text around a point; `size` is the height of the font in pixels."""
        self._draw.text((centre[0] * SCALE, centre[1] * SCALE), text, fill=colour, font=_font(round(size * SCALE)), anchor="mm")

    def picture(self) -> Image.Image:
        return self._image.resize((self.side, self.side), Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own, the same on every machine
