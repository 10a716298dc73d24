"""Ed25519 signatures, verified: RFC 8032, section 5.1, pure (not pre-hashed). Standard library only, for devices without OpenSSL bindings.

Verifying takes no secret, so nothing here has to take constant time. Keys are made and used for signing on the host, by a library.
"""

import hashlib
from typing import Optional, Tuple

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
"""Order of the base point."""
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)
"""A square root of -1."""

Point = Tuple[int, int, int, int]
"""(X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z."""


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is one of `message` by the key `public` (32 bytes). Whatever is malformed is no signature.

    Strict: S below the group's order, points in their one encoding, no key of small order; the equation is the one without cofactor,
    as in OpenSSL.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, s = decoded(public), int.from_bytes(signature[32:], "little")
    if key is None or s >= L or is_neutral(times(8, key)):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    x, y, z, t = key
    # R = [S]B - [k]A: comparing encodings refuses every R that is not in its one form
    return encoded(added(times(s, BASE), times(k, (P - x, y, z, P - t)))) == signature[:32]


def added(a: Point, b: Point) -> Point:
    """Sum of two points (section 5.1.4)."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    h, i, j, k = f - e, d - c, d + c, f + e
    return h * i % P, j * k % P, i * j % P, h * k % P


def times(n: int, point: Point) -> Point:
    """n times a point, n >= 0."""
    total = (0, 1, 1, 0)
    while n:
        if n & 1:
            total = added(total, point)
        point = added(point, point)
        n >>= 1
    return total


def is_neutral(point: Point) -> bool:
    """Whether it is (0, 1)."""
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0


def x_from(y: int, sign: int) -> Optional[int]:
    """The x of a point with this y and this lowest bit, or None where there is none (section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    return x if x & 1 == sign else P - x


def decoded(data: bytes) -> Optional[Point]:
    """The point in 32 bytes, or None."""
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    x = x_from(y, sign) if y < P else None
    return None if x is None else (x, y, 1, x * y % P)


def encoded(point: Point) -> bytes:
    """The 32 bytes of a point (section 5.1.2)."""
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    x = x_from(y, 0)
    assert x is not None
    return x, y, 1, x * y % P


BASE = _base()
