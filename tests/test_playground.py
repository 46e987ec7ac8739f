"""The playground computes what the library computes, its files are what they say, and its widgets talk."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playground_node import FOLDER, run_node

import csos_lib
from csos_lib.interpret import pair_coefficients, without_molecule
from csos_lib.playground import DrawDigit, Sorting, Triangle, load_weights, pack_weights
from csos_lib.playground.weights import pack_arrays, unpack_arrays
from csos_lib.relatives.chemistry import ChemicalCSOS

MODELS = ("mirror-cp", "mirror-dense", "memo-cp", "memo")
DATA = csos_lib.load_dataset("mnist5k")
RUN = """
    const models = {};
    return given.settings.map((s, b) => {
      const model = (models[s.file] ??= pg.parseModel(file(s.file)));
      const states = pg.trajectory(model, given.images[b], { ...s, out: new Set(s.out) });
      return { x: states.x.map((x) => [...x]), logP: [...pg.readout(states, s.steps)] };
    });
"""


def run_python(model: csos_lib.CSOS, image: torch.Tensor, setting: dict[str, Any]) -> Any:
    """Concentrations (T + 1, N) and log-probabilities (10,) of one image with the settings of the page."""
    for molecule in setting["out"]:
        model = without_molecule(model, molecule)
    model.steps, model.decay, model.alpha = setting["steps"], setting["decay"], setting["alpha"]
    with torch.no_grad():
        return model.trajectory(image[None])[:, 0], model(image[None])[0]


def test_every_concentration_of_500_digits_at_random_settings() -> None:
    """Both in float64 from the same stored weights: within 1e-6 over the whole range of every control."""
    ranges = run_node("return pg.RANGES;")
    rng = random.Random(0)
    settings: list[dict[str, Any]] = []
    for place in range(500):
        name = MODELS[place % 4]
        kind = "mirror" if name.startswith("mirror") else "euler"
        allowed = ranges[kind]
        settings.append(
            {
                "file": name,
                "dynamics": kind,
                "alpha": rng.choice([allowed["alpha"][1], rng.uniform(*allowed["alpha"][:2])]),
                "decay": rng.choice([0.0, rng.uniform(*allowed["decay"][:2])]),
                "steps": rng.choice([allowed["steps"][1], rng.randint(*allowed["steps"][:2])]),
                "out": rng.sample(range(64), rng.choice([0, 0, 1, 3])),
            }
        )
    images = DATA.test_images[:500].double()
    found = run_node(RUN, {"settings": settings, "images": images.tolist()})
    models = {name: load_weights(name, torch.float64) for name in MODELS}
    for image, setting, result in zip(images, settings, found, strict=True):
        x, _ = run_python(models[setting["file"]], image, setting)
        assert torch.allclose(x, torch.tensor(result["x"], dtype=torch.float64), rtol=0, atol=1e-6), setting


@pytest.mark.parametrize("name", MODELS)
def test_the_default_run_against_the_float32_model(name: str) -> None:
    model = load_weights(name)
    setting = {"steps": model.steps, "decay": model.decay, "alpha": model.alpha, "out": []}
    images = DATA.test_images[500:560]
    given = [{**setting, "file": name, "dynamics": model.dynamics}] * len(images)
    found = run_node(RUN, {"settings": given, "images": images.double().tolist()})
    with torch.no_grad():
        x, log_p = model.trajectory(images).transpose(0, 1), model(images)
    assert torch.allclose(x, torch.tensor([r["x"] for r in found]), rtol=0, atol=1e-4)
    p = torch.tensor([r["logP"] for r in found]).exp()
    assert torch.allclose(log_p.exp(), p, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_files_are_what_they_say(name: str) -> None:
    """The checksum holds, and the stated accuracy is that of the stored numbers on the bundled digits."""
    header, _ = unpack_arrays((FOLDER / f"{name}.bin").read_bytes())
    accuracy = csos_lib.evaluate(load_weights(name), DATA.test_images, DATA.test_labels).accuracy
    assert accuracy == pytest.approx(header["accuracy"], abs=0.0011)  # one image on the edge may turn
    assert accuracy > 0.93
    assert header["recipe"]["steps"] == 5
    assert "digits of MNIST" in header["trained_on"]


def test_the_page_states_the_accuracies() -> None:
    page = (FOLDER.parent.parent / "book" / "playground.md").read_text(encoding="utf-8")
    low, dense, memo_low, memo = (
        f"{unpack_arrays((FOLDER / f'{name}.bin').read_bytes())[0]['accuracy']:.3f}"
        for name in ("mirror-cp", "mirror-dense", "memo-cp", "memo")
    )
    assert f"| mirror | {low} | {dense} |\n| Euler (memo 1) | {memo_low} | {memo} |" in page


def test_the_strip_shows_bundled_test_digits() -> None:
    header, arrays = unpack_arrays((FOLDER / "digits.bin").read_bytes())
    rows = header["rows"]
    assert arrays["labels"].tolist() == DATA.test_labels[rows].tolist() == sorted([*range(10)] * 2)
    assert np.array_equal(arrays["images"], (DATA.test_images[rows] * 255).round().byte().numpy())


def test_the_first_picture_is_small() -> None:
    first = ("playground.js", "playground.css", "mount.js", "digits.bin", "mirror-cp.bin")
    assert sum((FOLDER / name).stat().st_size for name in first) < 400_000


def test_half_precision_is_read_to_the_bit() -> None:
    bits = np.array([0, 1, 2, 1023, 1024, 0x3C00, 0x7BFF, 0x8001, 0xBC00, 0xFBFF, 0x3555], dtype=np.uint16)
    header = {"arrays": [{"name": "a", "dtype": "float16", "shape": [len(bits)]}]}
    body = """
        const text = new TextEncoder().encode(JSON.stringify(given.header));
        const buffer = new ArrayBuffer(4 + text.length + 2 * given.bits.length);
        new DataView(buffer).setUint32(0, text.length, true);
        new Uint8Array(buffer).set(text, 4);
        given.bits.forEach((b, i) => new DataView(buffer).setUint16(4 + text.length + 2 * i, b, true));
        return [...pg.parseArrays(buffer).arrays.a];
    """
    found = run_node(body, {"header": header, "bits": bits.tolist()})
    assert found == bits.view(np.float16).astype(float).tolist()


@pytest.mark.parametrize("name", ["mirror-cp", "memo"])
def test_the_strongest_reactions(name: str) -> None:
    """The drawn reactions are the largest of all, computed here from the dense tensor."""
    model = load_weights(name, torch.float64)
    image = DATA.test_images[7].double()
    body = """
        const model = pg.parseModel(file(given.name));
        const states = pg.trajectory(model, given.image, model.recipe);
        return [0, 2].map((t) => pg.strongest(model, states, t, model.recipe, 5));
    """
    found = run_node(body, {"name": name, "image": image.tolist()})
    with torch.no_grad():
        x = model.trajectory(image[None])[:, 0]
        for t, fired in zip((0, 2), found, strict=True):
            if model.dynamics == "mirror":
                parts = model.alpha * 64 * pair_coefficients(model) * torch.outer(x[t], x[t])
                mean = torch.einsum("k,kij->ij", x[t + 1], parts)
                parts = x[t + 1][:, None, None] * (parts - mean)
            else:
                m = (1 - model.decay) * x[t]
                amounts = torch.relu(m + model.alpha * model.reaction(m[None])[0])
                parts = model.alpha * pair_coefficients(model) * torch.outer(m, m) / (amounts.sum() + 1e-8)
                parts[x[t + 1] == 0] = 0
            largest = parts.flatten()[parts.flatten().abs().argsort(descending=True)[:5]]
            assert [r["strength"] for r in fired] == pytest.approx(largest.tolist(), rel=1e-9)
            for r in fired:
                assert parts[r["k"], r["i"], r["j"]].item() == pytest.approx(r["strength"], rel=1e-9)


def test_strokes_become_what_mnist_has() -> None:
    """A box of 20 pixels, its mass centred, the ink of a written digit, wherever and however big it is."""
    seven = [[[50, 40], [200, 40], [120, 240]]]
    moved = [[[0.25 * x + 91, 0.25 * y + 7] for x, y in seven[0]]]
    dot, two = [[[30, 30]]], [[[0, 0], [0, 100]], [[60, 0], [60, 100]]]
    given = [[seven, 11], [moved, 2.75], [dot, 11], [two, 8]]
    body = "return given.map(([strokes, pen]) => [...pg.prepare(strokes, pen)]);"
    images = np.array(run_node(body, given)).reshape(4, 28, 28)
    assert np.allclose(images[0], images[1])
    assert images.min() == 0
    assert images.max() <= 1
    for image in images[[0, 3]]:
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    mass = images[3].sum()
    assert abs((images[3].sum(0) @ np.arange(28)) / mass - 14) <= 0.5
    assert abs((images[3].sum(1) @ np.arange(28)) / mass - 14) <= 0.5
    assert 2 < images[2].sum() < 12
    assert 40 < images[0].sum() < 160
    assert run_node("return pg.prepare([], 11);") is None


@pytest.mark.parametrize("reaction", ["dense", "symmetric", "cp", "tucker", "pairwise"])
def test_any_named_model_can_be_pushed(tmp_path: Path, reaction: str) -> None:
    model = csos_lib.CSOS(num_basis=12, steps=3, reaction=reaction, dynamics="mirror").double()
    path = tmp_path / "mine.bin"
    path.write_bytes(pack_weights(model, "float64"))
    images = DATA.test_images[:4].double()
    assert torch.allclose(load_weights(path, torch.float64)(images), model(images), atol=1e-12)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    content = bytearray((FOLDER / "mirror-cp.bin").read_bytes())
    content[-1] ^= 1
    path = tmp_path / "damaged.bin"
    for damaged in (bytes(content), content[:1000], b"", b"\x02\0\0\0{}"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a whole file"):
            load_weights(path)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.bin")
    with pytest.raises(ValueError, match="dynamics"):
        pack_weights(csos_lib.CSOS(dynamics=lambda x, reaction: x))
    with pytest.raises(ValueError, match="dtype"):
        pack_weights(csos_lib.CSOS(), "int8")
    for other in (ChemicalCSOS(), csos_lib.CSOS(inputs=100)):
        with pytest.raises(ValueError, match="784"):
            pack_weights(other)


def test_widgets_show_the_same_text_everywhere() -> None:
    for widget, name in ((DrawDigit(), "digit"), (Triangle(), "triangle"), (Sorting(), "sorting")):
        data, _ = widget._repr_mimebundle_()
        assert f'data-csos-demo="{name}"' in data["text/html"]
        assert "It needs JavaScript" in data["text/html"]
        assert data["text/plain"] == repr(widget)
        assert " at 0x" not in repr(widget)
        assert "application/vnd.jupyter.widget-view+json" in data


def test_the_kernel_sees_the_drawing_and_pushes_a_model() -> None:
    widget = DrawDigit()
    assert widget.image.shape == (28, 28)
    assert widget.image.sum() == 0
    widget.set_state({"pixels": memoryview(DATA.test_images[0].numpy().tobytes())})  # as it comes
    assert torch.equal(widget.image.flatten(), DATA.test_images[0])
    mine = csos_lib.CSOS(num_basis=16, reaction="cp", rank=4)
    widget.model = mine
    assert widget.model is mine
    header, arrays = unpack_arrays(widget.weights)
    assert header["recipe"]["num_basis"] == 16
    assert np.array_equal(arrays["encoder"], mine.encoder.weight.detach().numpy())


def test_the_kernel_sends_the_files_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    widget = DrawDigit()
    sent: list[Any] = []
    monkeypatch.setattr(widget, "send", lambda content, buffers: sent.append((content, buffers)))
    widget._send_file(widget, {"file": "memo"}, None)
    widget._send_file(widget, {"file": "../classifier"}, None)
    assert sent == [({"file": "memo"}, [(FOLDER / "memo.bin").read_bytes()])]


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    header, arrays = unpack_arrays(pack_weights(csos_lib.CSOS(12, 2, reaction="cp", rank=3)))
    about = {"recipe": header["recipe"]}
    recipes = [{}, {"num_basis": 0}, {"wings": 2}, {"num_basis": 13}, {"rank": 4}, {"reaction": "symmetric"}]
    damaged = [pack_arrays({"recipe": {**header["recipe"], **wrong}}, arrays) for wrong in recipes[1:]]
    damaged += [pack_arrays({}, arrays), pack_arrays({"recipe": None}, arrays)]
    damaged += [pack_arrays(about, {k: v for k, v in arrays.items() if k != lost}) for lost in arrays]
    damaged += [pack_arrays(about, {**arrays, "more": np.zeros(1)})]
    damaged += [pack_arrays(about, {**arrays, "bias": np.array(["a"] * 12)})]
    text = json.dumps({"format": "csos_lib playground 1", "sha256": "", "arrays": 0}).encode()
    deep = b"[" * 100_000
    damaged += [len(t).to_bytes(4, "little") + t for t in (text, deep, b"[]", b"1", b"null")]
    path = tmp_path / "damaged.bin"
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="of the playground"):
            load_weights(path)
    path.write_bytes(pack_arrays(about, arrays))
    assert load_weights(path).num_basis == 12


def test_only_files_that_can_be_read_are_written() -> None:
    for name in ("format", "recipe", "arrays", "sha256"):
        with pytest.raises(ValueError, match=f"about must not name .* got {name}"):
            pack_weights(csos_lib.CSOS(12), **{name: 1})
    with pytest.raises(ValueError, match="JSON"):
        pack_weights(csos_lib.CSOS(12), accuracy=float("nan"))
    model = csos_lib.CSOS(12, reaction="cp", rank=3)
    with torch.no_grad():
        model.reaction.left[0, 0] = 1e6
    assert unpack_arrays(pack_weights(model))[1]["left"].max() == 1e6
    with pytest.raises(ValueError, match=r"left must be finite in float16, got 1e\+06"):
        pack_weights(model, "float16")
    with torch.no_grad():
        model.reaction.left[0, 0] = float("nan")
    with pytest.raises(ValueError, match="left must be finite in float32, got nan"):
        pack_weights(model)
    assert np.isfinite(unpack_arrays(pack_weights(csos_lib.CSOS(12).bfloat16()))[1]["encoder"]).all()
