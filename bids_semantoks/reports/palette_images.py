"""Heatmaps as PNG images with a palette: written with zlib alone in a few milliseconds, and read back as numbers."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (rows, columns): 0 where missing, which is transparent, else 1 to the number of colours


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """Colours of evenly spaced values."""

    colours: tuple[str, ...]  # rrggbb, from `low` to `high`
    low: float
    high: float

    def quantise(self, values: NDArray[np.floating[Any]]) -> Image:
        """Find the colour of each value, clipped to the range; NaN is missing."""
        n = len(self.colours)
        scaled = (np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low)
        indices = np.clip((scaled * n).astype(np.int64), 0, n - 1) + 1
        return np.where(np.isnan(values), 0, indices).astype(np.uint8)

    def draw(self, values: NDArray[np.floating[Any]]) -> str:
        """Draw values as an image, in base64."""
        return to_base64(self.quantise(values), self.colours)

    def restore(self, image: Image) -> NDArray[np.float64]:
        """Return the middle of each colour's range; NaN where missing."""
        middle = self.low + (image.astype(np.float64) - 0.5) * (self.high - self.low) / len(self.colours)
        return np.where(image == 0, np.nan, middle)


def _blend(anchors: str, n: int) -> tuple[str, ...]:
    """Interpolate `n` colours between evenly spaced anchors."""
    fixed = np.array([list(bytes.fromhex(one)) for one in anchors.split()], dtype=np.float64)
    at = np.linspace(0, len(fixed) - 1, n)
    blended = [np.interp(at, range(len(fixed)), fixed[:, channel]) for channel in range(3)]
    return tuple(bytes(colour).hex() for colour in np.rint(blended).astype(np.uint8).T)


#: Z-scores of carpets: 15 greys and missing fit into four bits per pixel.
GREYS: Final = Palette(colours=_blend("000000 ffffff", 15), low=-2.0, high=2.0)

#: Correlations: ColorBrewer's RdBu, reversed.
RED_BLUE: Final = Palette(
    colours=_blend("053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f", 31),
    low=-1.0,
    high=1.0,
)

#: Shares and similarities: cividis, designed for colour vision deficiency (doi:10.1371/journal.pone.0199239).
CIVIDIS_COLOURS: Final = _blend("00224e 083370 35456c 4f576c 666970 7d7c78 948e77 aea371 c8b866 e5cf52 fee838", 31)

#: Coverage; one more colour marks parcels that are absent (`ABSENT`).
COVERAGE: Final = Palette(colours=CIVIDIS_COLOURS, low=0.0, high=1.0)
ABSENT: Final = len(CIVIDIS_COLOURS) + 1
ABSENT_COLOUR: Final = "d55e00"


def to_base64(image: Image, colours: tuple[str, ...]) -> str:
    """Write an image whose values are positions in `colours`, from 1, at most 255, and 0 where it is transparent, as
    the rest of a ``data:image/png;base64,`` address."""
    depth = 4 if len(colours) < 16 else 8
    rows: Image = np.ascontiguousarray(image)
    if depth == 4:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        rows = ((even[:, ::2] << 4) | even[:, 1::2]).astype(np.uint8)
    filtered = np.pad(rows, ((0, 0), (1, 0)))  # filter 0, none, before each row
    # Run lengths and Huffman codes only: in noise there are no other matches, and it is a sixth shorter.
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", image.shape[1], image.shape[0], depth, 3, 0, 0, 0),
        b"PLTE": bytes.fromhex("000000" + "".join(colours)),
        b"tRNS": b"\x00",
        b"IDAT": packer.compress(filtered.tobytes()) + packer.flush(),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )
    return base64.b64encode(content).decode()


def from_base64(text: str) -> Image:
    """Read back an image of `to_base64`."""
    content = base64.b64decode(text)
    width, height, depth = struct.unpack(">IIB", content[16:25])
    start = content.index(b"IDAT")
    n_bytes = struct.unpack(">I", content[start - 4 : start])[0]
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + n_bytes]), dtype=np.uint8)
    rows = rows.reshape(height, -1)[:, 1:]
    if depth == 4:
        rows = np.stack([rows >> 4, rows & 15], axis=2).reshape(height, -1)
    return rows[:, :width]
