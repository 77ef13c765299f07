"""One variant of ``benchmarks.gpu`` in this process: training, then prediction, timed on the device.

python -m benchmarks.gpu_variant trainer_default --encoder minilm --texts sst2 --length 128
python -m benchmarks.gpu_variant peak

trainer_default    Trainer as it comes: float32, fused AdamW, batches drawn at random and padded to their longest row,
                   prediction in batches of 8
trainer_best       bf16, TF32, batches of similar length, two processes that collate, no check of the loss in each step;
                   prediction in bf16, 256 rows of similar length at a time
trainer_compiled   the same with ``torch.compile``
bertkit_default    bertkit as it comes
bertkit_best       layers without padding switched on, batches of similar length, a whole batch at a time
bertkit_compiled   batches of similar length, a whole batch at a time, ``train.compile``
peak               the fastest matrix product that this device has

Two epochs are trained: the first warms up, each step of the second is timed, by events in the device's own queue, so
that nothing waits for the clock. All sides take the same rows, 32 a step. Prediction begins with texts that are
tokenised already. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain_glue import features_of, generated
from benchmarks.plain_tagging import encoder_folder, load_tokenizer

VARIANTS = (
    "trainer_default",
    "trainer_best",
    "trainer_compiled",
    "bertkit_default",
    "bertkit_best",
    "bertkit_compiled",
)
PASSES = 3
"""Timed passes over the rows in prediction, after one that warms up."""
WHOLE = 65_536
"""Tokens that hold any batch of 32."""


class Clock:
    """Notes moments in the device's own queue, and the peak of memory from the end of the warm-up on."""

    def __init__(self, device: str, first: int, last: int) -> None:
        """Take the device, and the moments from which on and up to which is measured."""
        self.cuda = device == "cuda"
        self.first, self.last = first, last
        self.marks: list[Any] = []
        self.peak_mb = 0.0

    def mark(self) -> None:
        """Note a moment; on CUDA without waiting for it."""
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())
        if len(self.marks) == self.first + 1 and self.cuda:
            torch.cuda.reset_peak_memory_stats()
        if len(self.marks) == self.last + 1:
            self.peak_mb = peak_mb(cuda=self.cuda)

    def milliseconds(self) -> list[float]:
        """Return the time between each moment and the next one."""
        if self.cuda:
            torch.cuda.synchronize()
            found = [one.elapsed_time(other) for one, other in pairwise(self.marks)]
        else:
            found = [1000 * (other - one) for one, other in pairwise(self.marks)]
        return found[self.first : self.last]


def peak_mb(*, cuda: bool) -> float:
    """Return the largest memory so far: what torch allocated on the GPU, or the resident memory of the process."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def flops(config: Any, lengths: Sequence[int]) -> float:
    """Return the operations of a forward pass over rows: the layers' products and attention, of real tokens only.

    A multiplication and an addition are two; embeddings, norms and the head are left out, and padding is no work that
    was asked for (Chowdhery et al. 2022, appendix B: model FLOPs utilisation).
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    of_token = 8 * hidden * hidden + 4 * hidden * inner
    return float(sum(layers * (length * of_token + 4 * length * length * hidden) for length in lengths))


def peak(device: str, *, quick: bool) -> dict[str, Any]:
    """Return the operations a second of large square products, the best of several tries."""
    size = 256 if quick else 8192
    dtypes = {"bf16": torch.bfloat16, "float32": torch.float32}
    found = {}
    for name, dtype in dtypes.items():
        one = torch.randn(size, size, device=device, dtype=dtype)
        clock = Clock(device, 3, 13)
        clock.mark()
        for _ in range(13):
            one @ one
            clock.mark()
        found[name] = 2 * size**3 / (min(clock.milliseconds()) / 1000)
    return found


def timed(predict: Callable[[], Any], device: str, rows: int) -> dict[str, Any]:
    """Return the seconds of passes over all rows, the first left out, and the peak of memory."""
    cuda = device == "cuda"
    predict()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(PASSES):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        predict()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"rows": rows, "seconds": seconds, "peak_mb": peak_mb(cuda=cuda)}


class Watch:
    """Notes in what the linear layers compute while the warm-up lasts."""

    def __init__(self) -> None:
        self.dtypes: set[str] = set()
        self.handle = torch.nn.modules.module.register_module_forward_hook(self._linear)

    def _linear(self, module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            self.dtypes.add(str(output.dtype).removeprefix("torch."))


def arguments(setting: str, out: str, given: argparse.Namespace) -> Any:
    """Return Trainer's arguments; what is not named here is its default."""
    from transformers import TrainingArguments

    cuda = given.device == "cuda"
    about: dict[str, Any] = {
        "output_dir": out,
        "per_device_train_batch_size": given.batch,
        "learning_rate": 2e-5,
        "num_train_epochs": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
    }
    if setting != "default":
        about |= {"bf16": True, "bf16_full_eval": True, "per_device_eval_batch_size": 256}
        about |= {"train_sampling_strategy": "group_by_length", "logging_nan_inf_filter": False}
        if cuda:
            about |= {"tf32": True, "dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    if setting == "compiled":
        about |= {"torch_compile": True}
    return TrainingArguments(**about)


def trainer(setting: str, encoder: Path, rows: list[dict[str, Any]], given: argparse.Namespace) -> dict[str, Any]:
    """Train and predict by Trainer."""
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, set_seed

    tokenizer = load_tokenizer(encoder)
    features = features_of(rows, tokenizer, given.length, padded=False)
    set_seed(42)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, dtype=torch.float32)
    steps = -(-len(rows) // given.batch)
    clock, watch = Clock(given.device, steps, 2 * steps), None if setting == "compiled" else Watch()

    class Marks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark()
            if watch and len(clock.marks) > steps:
                watch.handle.remove()

    with tempfile.TemporaryDirectory() as out:
        made = Trainer(
            model=model,
            args=arguments(setting, out, given),
            train_dataset=features,
            processing_class=tokenizer,
            callbacks=[Marks()],
        )
        made.train()
        order = features
        if setting != "default":
            order = sorted(features, key=lambda row: -len(row["input_ids"]))
        predicted = timed(lambda: made.predict(order), given.device, len(rows))
    lengths = [len(row["input_ids"]) for row in features]
    return report(clock, predicted, lengths, model.config, watch) | {"layers": {"form": "padded"}}


def report(
    clock: Clock, predicted: dict[str, Any], lengths: list[int], config: Any, watch: Watch | None
) -> dict[str, Any]:
    """Return what was found of a variant."""
    return {
        "step_ms": [round(each, 4) for each in clock.milliseconds()],
        "train_peak_mb": clock.peak_mb,
        "predict": predicted,
        "examples": len(lengths),
        "tokens": sum(lengths),
        "flops": flops(config, lengths),
        "dtypes": sorted(watch.dtypes) if watch else [],
    }


TASK = """type = "sequence-classification"
[data]
files = { train = "train.jsonl", validation = "validation.jsonl" }
"""


def settings_of(setting: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return bertkit's settings; what is not named here is its default."""
    about: dict[str, Any] = {
        "train.epochs": 2,
        "train.batch_size": given.batch,
        "train.learning_rate": 2e-5,
        "train.max_length": given.length,
        "eval.resamples": 0,
        # An evaluation after the first epoch would be inside the measured steps.
        "train.eval_steps": 2 * -(-given.rows // given.batch),
    }
    if setting != "default":
        about |= {"train.group_by_length": True, "train.micro_batch_tokens": WHOLE}
    return about | ({"train.compile": True} if setting == "compiled" else {})


def ours(setting: str, encoder: Path, rows: list[dict[str, Any]], given: argparse.Namespace) -> dict[str, Any]:
    """Train and predict by bertkit."""
    import bertkit
    from bertkit import infer, unpad
    from bertkit.events import Start, Step

    if setting == "best":
        os.environ[unpad.SWITCH] = given.device
    steps = -(-len(rows) // given.batch)
    clock, watch = Clock(given.device, steps, 2 * steps), None if setting == "compiled" else Watch()

    def listen(event: Any) -> None:
        if isinstance(event, Start | Step):
            clock.mark()
        if watch and isinstance(event, Step) and event.step == steps:
            watch.handle.remove()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, some in (("train", rows), ("validation", rows[: given.batch])):
            text = "".join(json.dumps(row) + "\n" for row in some)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        (folder / "task.toml").write_text(TASK, encoding="utf-8")
        about: dict[str, Any] = {"encoder": encoder, "out": folder / "run", "settings": settings_of(setting, given)}
        bertkit.finetune(folder / "task.toml", **about, device=given.device, listen=listen)
        record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
        predictor = bertkit.load(folder / "run", device=given.device)
        adapter, opened = predictor.model.adapter, predictor.opened
        features = adapter.encode(rows, opened.loaded.tokenizer)
        place: dict[str, Any] = {
            "accelerator": opened.accelerator,
            "batch_tokens": 0 if setting == "default" else WHOLE,
        }
        predicted = timed(lambda: infer.forward(adapter, opened.model, features, **place), given.device, len(rows))
        config = opened.loaded.model.config
    found = report(clock, predicted, [len(feature) for feature in features], config, watch)
    return found | {"layers": record["layers"], "device": record["device"]}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("variant", choices=[*VARIANTS, "peak"])
    made.add_argument("--encoder", default="minilm", help="an installed encoder, or a folder")
    made.add_argument("--texts", choices=["sst2", "windows"], default="sst2")
    made.add_argument("--length", type=int, default=128)
    made.add_argument("--rows", type=int, default=6400)
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    made.add_argument("--quick", action="store_true", help="small products for the peak")
    return made


def main() -> None:
    given = parser().parse_args()
    if given.variant == "peak":
        print(json.dumps(peak(given.device, quick=given.quick)))
        return
    side, _, setting = given.variant.partition("_")
    rows = generated(given.texts, given.rows)
    train = trainer if side == "trainer" else ours
    print(json.dumps(train(setting, encoder_folder(given.encoder), rows, given)))


if __name__ == "__main__":
    main()
