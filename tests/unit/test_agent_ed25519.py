"""The verifier against the RFC's own vectors and against a library."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.targets.agent.ed25519 import L, P, verify

# RFC 8032, section 7.1: TEST 1, TEST 2, TEST 3
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_vectors_of_the_rfc(public: str, message: str, signature: str) -> None:
    key, text, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert verify(key, text, signed)
    assert not verify(key, text + b"x", signed)


@settings(max_examples=25, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=300), bit=st.integers(0, 511))
def test_what_a_library_signs_is_taken_and_one_other_bit_is_not(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = private.sign(message)
    assert verify(public, message, signature)
    other = bytearray(signature)
    other[bit // 8] ^= 1 << bit % 8
    assert not verify(public, message, bytes(other))


def test_second_form_of_a_signature_is_refused() -> None:
    """S + L satisfies the equation too; RFC 8032, 5.1.7: S has to be below L."""
    public, message, signature = (bytes.fromhex(each) for each in VECTORS[1])
    s = int.from_bytes(signature[32:], "little") + L
    assert s < 2**256
    assert not verify(public, message, signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("y", [1, P - 1, 0, P, P + 1, 2**255 - 1])
def test_keys_of_small_order_and_in_other_encodings_are_refused(y: int) -> None:
    """With the neutral point as key, R = [S]B "signs" every message."""
    assert not verify(y.to_bytes(32, "little"), b"anything", (1).to_bytes(32, "little") + bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_wrong_sizes_are_no_signature(size: int) -> None:
    public, message, signature = (bytes.fromhex(each) for each in VECTORS[0])
    assert not verify(bytes(size), message, signature)
    assert not verify(public, message, bytes(size))
