"""Makes small PNG and JPEG files of every kind without an image library, so a missing library cannot leave a corpus
empty."""
import struct
import zlib

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png_rows(width, height, bits, filter_type):
    """`bits` to a pixel; the values of the bytes are arbitrary."""
    stride = (width * bits + 7) // 8
    return b"".join(bytes([filter_type]) + bytes((x * 37 + y * 11) % 256 for x in range(stride)) for y in range(height))


def png(color, depth, width=5, height=4, interlaced=False, before=b"", between=b"", filter_type=0, data=None, end=True):
    bits = CHANNELS[color] * depth
    if data is None and interlaced:
        data = b""
        for x, y, step_x, step_y in ADAM7:
            columns, rows = (width - x + step_x - 1) // step_x, (height - y + step_y - 1) // step_y
            if columns > 0 and rows > 0:
                data += png_rows(columns, rows, bits, filter_type)
    elif data is None:
        data = png_rows(width, height, bits, filter_type)
    if color == PALETTE:
        before = chunk(b"PLTE", bytes(range(3 * min(2**depth, 16)))) + before
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    packed = zlib.compress(data)
    half = len(packed) // 2
    body = chunk(b"IDAT", packed[:half]) + between + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + body + (chunk(b"IEND", b"") if end else b"")


def exif(orientation, order=b"II"):
    pack = "<" if order == b"II" else ">"
    return order + struct.pack(pack + "HIHHHIHHI", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def some_png():
    for name, color, depths in (("gray", GRAY, (1, 2, 4, 8, 16)), ("rgb", RGB, (8, 16)), ("palette", PALETTE, (1, 2, 4, 8)),
                                ("gray_alpha", GRAY_ALPHA, (8, 16)), ("rgba", RGBA, (8, 16))):
        for depth in depths:
            yield f"{name}_{depth}", png(color, depth)
            yield f"{name}_{depth}_interlaced", png(color, depth, interlaced=True)
    for filter_type in range(1, 6):
        yield f"filter_{filter_type}", png(RGB, 8, filter_type=filter_type)
    yield "one_pixel", png(GRAY, 8, 1, 1)
    yield "transparent_palette", png(PALETTE, 2, before=chunk(b"tRNS", b"\x00\x80"))
    yield "transparent_rgb", png(RGB, 8, before=chunk(b"tRNS", b"\0\1\0\2\0\3"))
    yield "gamma", png(RGB, 8, before=chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sRGB", b"\0"))
    yield "profile", png(RGB, 8, before=chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(200))))
    yield "text", png(GRAY, 8, before=chunk(b"tEXt", b"Title\0x") + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"y" * 99)))
    yield "text_bomb", png(GRAY, 8, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))))
    for orientation in (1, 3, 6, 9):
        yield f"exif_{orientation}", png(GRAY, 8, before=chunk(b"eXIf", exif(orientation)))
    yield "exif_big_endian", png(GRAY, 8, before=chunk(b"eXIf", exif(8, b"MM")))
    yield "exif_short", png(GRAY, 8, before=chunk(b"eXIf", exif(6)[:11]))
    exif_chunk = chunk(b"eXIf", exif(1))
    yield "exif_large", png(GRAY, 8, before=exif_chunk).replace(exif_chunk, struct.pack(">I", 0x58000000) + exif_chunk[4:])
    yield "exif_large_at_the_end", png(GRAY, 8).split(b"IDAT")[0][:-4] + struct.pack(">I", 0x58000000) + b"eXIfII"
    yield "unknown_chunks", png(GRAY, 8, before=chunk(b"abCd", b"x"), between=chunk(b"tIME", bytes(7)))
    yield "critical_chunk", png(GRAY, 8, before=chunk(b"ABCD", b"x"))
    yield "wrong_crc", png(GRAY, 8, before=chunk(b"tEXt", b"a\0b", crc=0))
    yield "no_end", png(GRAY, 8, end=False)
    yield "behind_the_end", png(GRAY, 8) + b"more"
    yield "truncated", png(RGB, 8)[:60]
    yield "too_few_rows", png(RGB, 8, data=png_rows(5, 2, 24, 0))
    yield "too_many_rows", png(RGB, 8, data=png_rows(5, 9, 24, 0))
    yield "no_pixels", png(GRAY, 8, 0, 4, data=b"")
    yield "large", png(RGBA, 16, 0x7FFFFFFF, 0x7FFFFFFF, data=b"x")
    yield "wide", png(GRAY, 8, 100_000, 1, data=bytes(100_001))
    yield "depth_3", png(GRAY, 3)
    yield "no_palette", png(GRAY, 8).replace(struct.pack(">BBBBB", 8, GRAY, 0, 0, 0), struct.pack(">BBBBB", 8, PALETTE, 0, 0, 0))
    yield "signature_alone", b"\x89PNG\r\n\x1a\n"


class Bits:
    """The bits of a JPEG scan, with a zero after each byte 0xff."""

    def __init__(self):
        self.text = ""

    def put(self, value, count):
        self.text += format(value, f"0{count}b") if count else ""

    def done(self):
        text = self.text + "1" * (-len(self.text) % 8)
        return bytes(int(text[i:i + 8], 2) for i in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


# DC has twelve categories of four bits. AC has only the end of the block, one bit.
TABLES = segment(0xC4, b"\x00" + bytes([0, 0, 0, 12]) + bytes(12) + bytes(range(12))) + segment(
    0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\x00")


def put_block(bits, difference, with_ac=True):
    size = abs(difference).bit_length()
    bits.put(size, 4)
    bits.put(difference if difference > 0 else difference + (1 << size) - 1, size)
    if with_ac:
        bits.put(0, 1)


def jpeg(components=1, width=16, height=8, sampling=1, before=b"", frame=0xC0, precision=8, restart=0, scans=1, tables=TABLES,
         data=None, end=b"\xff\xd9"):
    """Makes an image in which each block has one colour. `sampling` is the resolution of the first component relative to the
    others, in both directions."""
    out = b"\xff\xd8" + before + segment(0xDB, b"\0" + bytes([8] * 64)) + tables
    sizes = bytes(b for i in range(components) for b in (i + 1, (sampling << 4 | sampling) if i == 0 else 0x11, 0))
    out += segment(frame, struct.pack(">BHHB", precision, height, width, components) + sizes)
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    is_progressive = frame == 0xC2
    blocks_across = (width + 8 * sampling - 1) // (8 * sampling)
    blocks_down = (height + 8 * sampling - 1) // (8 * sampling)
    for _ in range(scans):
        spectral = b"\0\0\0" if is_progressive else b"\0\x3f\0"
        out += segment(0xDA, bytes([components]) + bytes(b for i in range(components) for b in (i + 1, 0)) + spectral)
        bits = Bits()
        for unit in range(blocks_across * blocks_down if data is None else 0):
            if restart and unit and unit % restart == 0:
                out += bits.done() + bytes([0xFF, 0xD0 + (unit // restart - 1) % 8])
                bits = Bits()
            for component in range(components):
                for _ in range(sampling * sampling if component == 0 else 1):
                    put_block(bits, 40 if unit % 2 else -25, not is_progressive)
        out += bits.done() if data is None else data
    if is_progressive:  # the other coefficients, one component per scan
        for component in range(components):
            finer = sampling if component == 0 else 1
            bits = Bits()
            bits.put(0, ((width * finer + 8 * sampling - 1) // (8 * sampling)) * ((height * finer + 8 * sampling - 1) //
                                                                                 (8 * sampling)))
            out += segment(0xDA, bytes([1, component + 1, 0, 1, 0x3F, 0])) + bits.done()
    return out + end


def some_jpeg():
    jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    adobe = [segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)) for transform in range(3)]
    yield "gray", jpeg()
    yield "colour", jpeg(3, before=jfif)
    yield "colour_halved", jpeg(3, 40, 24, sampling=2, before=jfif)
    yield "rgb", jpeg(3, before=adobe[0])
    yield "cmyk", jpeg(4, before=adobe[0])
    yield "ycck", jpeg(4, before=adobe[2])
    yield "cmyk_without_adobe", jpeg(4)
    yield "two_components", jpeg(2)
    yield "progressive", jpeg(3, frame=0xC2, before=jfif)
    yield "progressive_gray", jpeg(1, frame=0xC2)
    yield "progressive_halved", jpeg(3, 32, 32, sampling=2, frame=0xC2)
    yield "extended", jpeg(1, frame=0xC1)
    yield "lossless", jpeg(1, frame=0xC3)
    yield "arithmetic", jpeg(1, frame=0xC9, data=b"\x12\x34\x56")
    yield "twelve_bits", jpeg(1, frame=0xC1, precision=12)
    yield "restarts", jpeg(1, 64, 8, restart=2)
    yield "many_scans", jpeg(1, frame=0xC2, scans=120)
    for orientation in (1, 6, 8, 9):
        yield f"exif_{orientation}", jpeg(before=segment(0xE1, b"Exif\0\0" + exif(orientation)))
    yield "exif_big_endian", jpeg(before=segment(0xE1, b"Exif\0\0" + exif(3, b"MM")))
    yield "exif_short", jpeg(before=segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"))
    yield "exif_many", jpeg(before=segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(24)) * 3)
    yield "profile", jpeg(3, before=segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(100)))
    yield "comment", jpeg(before=segment(0xFE, b"a comment"))
    yield "bytes_between", jpeg().replace(TABLES, b"\0\0\0" + TABLES)
    yield "behind_the_end", jpeg() + b"more"
    yield "no_end", jpeg(end=b"")
    yield "truncated", jpeg(3, 64, 64)[:-20]
    yield "no_tables", jpeg(tables=b"")
    yield "wrong_table", jpeg(tables=segment(0xC4, b"\0" + b"\xff" * 16))
    yield "no_pixels", jpeg(1, 0, 8)
    yield "large", jpeg(1, 65500, 65500, data=b"x")
    yield "wide", jpeg(1, 8000, 8)
    yield "start_alone", b"\xff\xd8\xff"
