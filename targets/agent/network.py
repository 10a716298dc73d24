"""The process that runs one network (`agent --runner`): a crash or a kill in here is a result for the agent, not its end.

Requests and answers are lines as in `wire`, without ids: one request at a time, each answered by one line that has "ok" or "error";
lines with "event" may come before. NumPy and the runtime are imported here and nowhere else in the agent.
"""

import gc
import importlib
import os
import signal
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional

from edgec.targets.agent import engine, environment
from edgec.targets.agent.clock import monotonic_ns, perf_counter_ns
from edgec.targets.agent.identity import modules_in
from edgec.targets.agent.limits import confine
from edgec.targets.agent.wire import Failure, Fields, Lines, decode, encode


class Network:
    """A network, once opened, and what can be asked of it."""

    def __init__(self, send: Callable[[Dict[str, Any]], None]) -> None:
        self._send = send
        self._runner: Any = None
        self._once: Optional[Callable[[], Any]] = None

    def open(self, fields: Fields) -> Dict[str, Any]:
        """Load a network file. Answers load time, version and descriptions; RSS before, in bytes, has NumPy and the runtime in it."""
        runtime, path, threads = fields.text("runtime"), fields.text("path"), fields.whole("threads", 1, 1, 1024)
        if runtime not in modules_in("edgec.targets.agent.runners"):
            raise Failure("ToolchainMissing", "this agent has no runner %r" % runtime, runtime=runtime)
        environment.use(runtime)
        self._runner = importlib.import_module("edgec.targets.agent.runners." + runtime).RUNNER()
        package = import_one(self._runner)
        before = rss_bytes("VmRSS")
        start = perf_counter_ns()
        with refusals("the runtime does not load the network"):
            self._runner.open(path, {"threads": threads, "package": package})
        return {
            "load_s": (perf_counter_ns() - start) / 1e9,
            "rss_before_bytes": before,
            "version": self._runner.version,
            "inputs": self._runner.inputs,
            "outputs": self._runner.outputs,
        }

    def feed(self, fields: Fields) -> Dict[str, Any]:
        """Take the inputs for `warmup` and `block` from an .npz and run once: the first inference, timed apart."""
        inputs = self._checked(load_npz(fields.text("inputs")))
        self._once = self._runner.prepared(inputs)
        start = perf_counter_ns()
        with refusals("the network does not run on these inputs"):
            self._once()
        first_s = (perf_counter_ns() - start) / 1e9
        gc.collect()
        gc.disable()  # a collection within an inference would be counted as the network's
        return {"first_s": first_s}

    def block(self, fields: Fields) -> Dict[str, Any]:
        """Run up to `count` times or until `seconds` have passed, at least once, each timed alone.

        Before that, `settle` inferences are not timed.
        """
        once, count, seconds = self._once, fields.whole("count", None, 1), fields.number("seconds")
        if once is None:
            raise Failure("ProtocolViolation", "the network has no inputs yet")
        for _ in range(fields.whole("settle", 0)):
            once()
        times: List[int] = []
        clock, took = perf_counter_ns, times.append
        begin = monotonic_ns()
        end = clock() + int(seconds * 1e9)
        for _ in range(count):
            start = clock()
            once()
            stop = clock()
            took(stop - start)
            if stop >= end:
                break
        return {"times": times, "span": [begin, monotonic_ns()]}

    def memory(self, _fields: Fields) -> Dict[str, Any]:
        """Peak resident set of this process so far, in bytes."""
        return {"rss_peak_bytes": rss_bytes("VmHWM")}

    def infer(self, fields: Fields) -> Dict[str, Any]:
        """Run on an .npz and write the outputs to another."""
        import numpy as np

        inputs, target = load_npz(fields.text("inputs")), fields.text("target")
        outputs = in_pieces(self._runner.inputs, inputs, self._infer)
        with open(target, "wb") as file:
            np.savez(file, **outputs)
        return {"version": self._runner.version}

    def evaluate(self, fields: Fields) -> Dict[str, Any]:
        """Top-1 class of each row of `input` by the first output; see `batches` for the file."""
        described = self._runner.inputs
        if len(described) != 1:
            raise Failure("ModelError", "accuracy needs a network with one input; this one has %d" % len(described))
        name, fixed = described[0]["name"], (described[0]["shape"] or [None])[0]
        batch = fields.whole("batch", 1, 1, 65536)
        if fixed is not None and fixed != batch:
            raise Failure("ModelError", "the network's batch is fixed at %d, not %d" % (fixed, batch), fixed=fixed, batch=batch)
        predictions: List[int] = []
        said = time.monotonic()
        for rows, total, images in batches(load_npz(fields.text("inputs")), batch):
            with refusals("the network does not run on these inputs"):
                output = next(iter(self._runner.infer({name: images}).values()))
            if output.ndim != 2 or output.shape[0] != images.shape[0]:
                raise Failure("ModelError", "the first output is not (batch, classes) but %s" % (output.shape,))
            predictions += [int(c) for c in output[:rows].argmax(axis=1)]
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                self._send({"event": {"done": len(predictions), "total": total}})
        return {"predictions": predictions, "version": self._runner.version}

    def golden(self, fields: Fields) -> Dict[str, Any]:
        """Run on the arrays "in:<name>" of an .npz and compare with its "out:<name>"."""
        arrays = load_npz(fields.text("golden"))
        inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in:")}
        expected = {key[4:]: value for key, value in arrays.items() if key.startswith("out:")}
        answer = compared(expected, in_pieces(self._runner.inputs, inputs, self._infer))
        answer["version"] = self._runner.version
        return answer

    def _infer(self, arrays: Dict[str, Any]) -> Dict[str, Any]:
        inputs = self._checked(arrays)
        with refusals("the network does not run on these inputs"):
            outputs: Dict[str, Any] = self._runner.infer(inputs)
        return outputs

    def _checked(self, arrays: Dict[str, Any]) -> Dict[str, Any]:
        """The arrays that the network asks for, with its types and shapes."""
        checked = {}
        for each in self._runner.inputs:
            array = arrays.get(each["name"])
            if array is None:
                raise Failure("ModelError", "there is no array for the input %r" % each["name"], given=sorted(arrays))
            fits = len(array.shape) == len(each["shape"]) and all(want in (None, have) for want, have in zip(each["shape"], array.shape))
            if not fits or str(array.dtype) != each["dtype"]:
                what = "input %r has to be %s %s and is %s %s" % (
                    each["name"],
                    each["dtype"],
                    each["shape"],
                    array.dtype,
                    list(array.shape),
                )
                raise Failure("ModelError", what, input=each["name"])
            checked[each["name"]] = array
        return checked


def import_one(runner: Any) -> str:
    """Import what a runner needs and the first of its packages that imports; its name.

    Raises:
        Failure: ToolchainMissing, with the reason of each.
    """
    try:
        for module in runner.needs:
            importlib.import_module(module)
    except ImportError as error:
        raise Failure("ToolchainMissing", "%s cannot import %s: %s" % (sys.executable, module, error), python=sys.executable) from error
    reasons = []
    for package, _ in runner.packages:
        try:
            importlib.import_module(runner.modules[package])
        except ImportError as error:
            reasons.append("%s cannot import %s: %s" % (sys.executable, runner.modules[package], error))
        else:
            return str(package)
    raise Failure("ToolchainMissing", "; ".join(reasons), python=sys.executable)


def in_pieces(described: List[Dict[str, Any]], arrays: Dict[str, Any], run: Callable[[Dict[str, Any]], Dict[str, Any]]) -> Dict[str, Any]:
    """Outputs of `run` for any number of rows, also where the network's batch is fixed.

    A network whose inputs all have the same fixed first dimension, fed with arrays of another common one, runs on that many rows at a
    time; the last piece is filled up with zeros, and their outputs are cut off.
    """
    import numpy as np

    sizes = {each["shape"][0] if each["shape"] else None for each in described}
    rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    batch, n = (sizes.pop(), rows.pop()) if len(sizes) == len(rows) == 1 else (None, 0)
    if batch is None or n in (0, batch):
        return run(arrays)
    pieces = []
    for start in range(0, n, batch):
        part = {name: array[start : start + batch] for name, array in arrays.items()}
        lack = batch - min(batch, n - start)
        outputs = run({name: np.concatenate([a, np.zeros((lack, *a.shape[1:]), a.dtype)]) for name, a in part.items()})
        pieces.append({name: output[: batch - lack] for name, output in outputs.items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class refusals:  # noqa: N801
    """What a runtime raises about a network or its inputs becomes a ModelError, want of memory a RunnerDied.

    Runtimes share no base class but Exception.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: Optional[BaseException], _trace: object) -> None:
        if isinstance(error, MemoryError) or (isinstance(error, Exception) and "bad_alloc" in str(error)):  # C++'s own name for it
            raise Failure("RunnerDied", "the network needs more memory than its process may have", out_of_memory=True) from error
        if isinstance(error, Exception) and not isinstance(error, Failure):
            raise Failure("ModelError", "%s: %s" % (self._what, str(error)[:2000]), error=type(error).__name__) from error


def load_npz(path: str) -> Dict[str, Any]:
    """All arrays of an .npz, no pickles.

    Raises:
        Failure: ModelError, when it is not one.
    """
    import zipfile

    import numpy as np

    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise Failure("ModelError", "the inputs are not an .npz of plain arrays: %s" % error) from error


def batches(arrays: Dict[str, Any], batch: int) -> Any:
    """(rows that count, all rows, float32 images of exactly `batch` rows), the last batch filled up with zeros.

    `input` is float32 as the network takes it, or uint8 with `scale` and `offset`, float32 of shape (channels,):
    x = input * scale[c] + offset[c] for (n, channels, height, width).

    Raises:
        Failure: ModelError.
    """
    import numpy as np

    images = arrays.get("input")
    if images is None or str(images.dtype) not in ("uint8", "float32"):
        raise Failure("ModelError", "the evaluation set has no array `input` of uint8 or float32", given=sorted(arrays))
    scale, offset = arrays.get("scale"), arrays.get("offset")
    if str(images.dtype) == "uint8":
        if images.ndim != 4 or scale is None or offset is None or scale.shape != (images.shape[1],) or offset.shape != scale.shape:
            raise Failure("ModelError", "uint8 images are (n, c, h, w) and come with `scale` and `offset` of shape (c,)")
        scale, offset = (np.asarray(each, dtype="float32").reshape(1, -1, 1, 1) for each in (scale, offset))
    total = images.shape[0]
    for start in range(0, total, batch):
        part = images[start : start + batch]
        rows = part.shape[0]
        if str(part.dtype) == "uint8":
            part = part.astype("float32") * scale + offset
        if rows < batch:
            part = np.concatenate([part, np.zeros((batch - rows, *part.shape[1:]), dtype="float32")])
        yield rows, total, np.ascontiguousarray(part)


def compared(expected: Dict[str, Any], outputs: Dict[str, Any]) -> Dict[str, Any]:
    """Errors of outputs against references, as `records.Comparison` defines them; rows are samples, top-1 is of the first reference.

    A number that is not finite makes the errors None and counts as no agreement.

    Raises:
        Failure: ModelError, when an output is missing or has another shape.
    """
    import numpy as np

    if not expected:
        raise Failure("ModelError", "the golden file has no references")
    worst_abs, worst_rel, cosine_min, agree, n, finite = 0.0, 0.0, 1.0, 0, 0, True
    for index, (name, reference) in enumerate(expected.items()):
        output = outputs.get(name)
        if output is None or output.shape != reference.shape:
            raise Failure("ModelError", "the network has no output %r of shape %s" % (name, list(reference.shape)), given=sorted(outputs))
        a = reference.astype("float64").reshape(reference.shape[0], -1)
        b = output.astype("float64").reshape(a.shape)
        finite = finite and bool(np.isfinite(a).all() and np.isfinite(b).all())
        if index == 0:
            n = a.shape[0]
            same = (a.argmax(axis=1) == b.argmax(axis=1)) & np.isfinite(b).all(axis=1)
            agree = int(same.sum())
        if finite and a.size:
            error, largest = float(abs(a - b).max()), float(abs(a).max())
            worst_abs = max(worst_abs, error)
            worst_rel = max(worst_rel, error / largest if largest else (0.0 if error == 0 else float(error > 0)))
            lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
            cosines = np.where(lengths > 0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), (a == b).all(axis=1))
            cosine_min = min(cosine_min, float(cosines.min()))
    return {
        "max_abs_error": worst_abs if finite else None,
        "max_rel_error": worst_rel if finite else None,
        "cosine_min": cosine_min if finite else None,
        "agree": agree,
        "n": n,
    }


def rss_bytes(field: str, path: str = "/proc/self/status") -> Optional[int]:
    """VmRSS or VmHWM (peak) of /proc/<pid>/status (man 5 proc), in bytes; None where there is no such file."""
    try:
        with open(path) as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the agent ends, however it ends (prctl PR_SET_PDEATHSIG, man 2 prctl).

    Where there is no ctypes or no prctl the end of the input does it, after the inference that is running.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def main(requests: BinaryIO, replies: BinaryIO, memory_bytes: Optional[int] = None) -> int:
    """Answer until the requests end."""
    confine(memory_bytes)
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return 0

    def send(message: Dict[str, Any]) -> None:
        replies.write(encode(message))
        replies.flush()

    network, lines = Network(send), Lines()
    operations: Dict[str, Callable[[Fields], Dict[str, Any]]] = {
        name: getattr(network, name) for name in ("open", "feed", "block", "memory", "infer", "evaluate", "golden")
    }
    operations.update(build=engine.build, fingerprint=lambda _: engine.fingerprint())
    for data in iter(lambda: os.read(requests.fileno(), 65536), b""):
        for line in lines.feed(data):
            request = decode(line)
            try:
                send({"ok": operations[request["op"]](Fields(request))})
            except Failure as failure:
                send({"error": failure.reply()})
    return 0
