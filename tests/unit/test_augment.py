"""Every augmented image is one of the fifty shifted and flipped forms of its own image, and all of them occur."""

import numpy as np
import torch

from edgec.pipeline.compress.augment import flip_and_shift


def forms(image: np.ndarray) -> list[bytes]:
    """All fifty by slow loops: flipped or not, then moved by dy, dx with black coming in."""
    _c, h, w = image.shape
    result = []
    for base in (image, image[:, :, ::-1]):
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                moved = np.zeros_like(image)
                for y in range(h):
                    for x in range(w):
                        if 0 <= y + dy < h and 0 <= x + dx < w:
                            moved[:, y, x] = base[:, y + dy, x + dx]
                result.append(moved.tobytes())
    return result


def test_augmented_images_are_the_fifty_forms() -> None:
    image = np.random.default_rng(0).integers(1, 256, (2, 6, 5), dtype=np.uint8)
    known = forms(image)
    assert len(set(known)) == 50
    n = 2000
    out = flip_and_shift(torch.from_numpy(image).expand(n, -1, -1, -1), torch.Generator().manual_seed(0)).numpy()
    seen = [known.index(each.tobytes()) for each in out]
    # each form is expected 40 times; a fair draw misses one with probability 50 * (49/50)**2000 < 1e-15
    assert set(seen) == set(range(50))


def test_each_image_keeps_its_place_and_the_seed_decides() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8)[:, None, None, None].expand(8, 1, 6, 6)
    out = flip_and_shift(images, torch.Generator().manual_seed(3))
    assert out.amax((1, 2, 3)).tolist() == list(range(1, 9))
    assert torch.equal(out, flip_and_shift(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(out, flip_and_shift(images, torch.Generator().manual_seed(4)))
