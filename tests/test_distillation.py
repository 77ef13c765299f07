"""The losses against hand-written NumPy, the layer maps, and students cut out of their teachers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertkit import adapters, distillation, encoder
from bertkit.config import DistillConfig, TrainConfig
from bertkit.distillation import Items
from bertkit.errors import ConfigError, ModelError
from bertkit.task import DataSource, Task
from tests.conftest import save_tiny_bert


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 2


def of(*tables: np.ndarray) -> list[Any]:
    import torch

    return [torch.tensor(table, dtype=torch.float32) for table in tables]


def adapter_of(task_type: str, labels: tuple[str, ...] = ("no", "yes"), **task: Any) -> Any:
    made = Task(name="t", type=task_type, data=DataSource(), labels=labels, **task)
    return adapters.find(task_type)(made, TrainConfig(), labels)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_soft_loss_of_one_label_is_hintons(temperature: float) -> None:
    student, teacher, weights = numbers(5, 3), numbers(5, 3, seed=1), np.array([1, 1, 0.5, 2, 0])
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    wanted = (weights * temperature**2 * (p * np.log(p / q)).sum(-1)).sum()
    found = distillation.soft_loss(Items(*of(student, teacher, weights)), kind="single", temperature=temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_soft_loss_of_several_labels_is_a_yes_and_a_no_each() -> None:
    student, teacher, weights = numbers(4, 3), numbers(4, 3, seed=1), np.ones(4)
    p, q = sigmoid(teacher / 3), sigmoid(student / 3)
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = distillation.soft_loss(Items(*of(student, teacher, weights)), kind="multi", temperature=3.0)
    assert float(found) == pytest.approx(9 * each.mean(-1).sum(), rel=1e-5)


def test_soft_loss_of_a_number_is_its_squared_difference() -> None:
    student, teacher = numbers(4, 1), numbers(4, 1, seed=1)
    found = distillation.soft_loss(Items(*of(student, teacher, np.ones(4))), kind="regression", temperature=5.0)
    assert float(found) == pytest.approx(((student - teacher) ** 2).sum(), rel=1e-5)


def test_soft_loss_leaves_out_what_cannot_be_answered_and_has_finite_gradients() -> None:
    import torch

    student, teacher = numbers(2, 4), numbers(2, 4, seed=1)
    choices = np.array([[True, True, False, True], [True, False, False, True]])
    wanted = 0.0
    for row in range(2):
        p, q = (softmax(each[row][choices[row]]) for each in (teacher, student))
        wanted += (p * np.log(p / q)).sum()
    ours, theirs, weights = of(student, teacher, np.ones(2))
    ours.requires_grad_(True)
    found = distillation.soft_loss(Items(ours, theirs, weights, torch.tensor(choices)), kind="", temperature=1.0)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert bool(torch.isfinite(ours.grad).all())
    assert bool((ours.grad[~torch.tensor(choices)] == 0).all())


def test_soft_loss_leaves_out_words_that_the_teacher_does_not_know() -> None:
    import torch

    student, teacher = numbers(3, 4), numbers(3, 4, seed=1)
    teacher[1] = np.nan
    ours, theirs, weights = of(student, teacher, np.ones(3))
    ours.requires_grad_(True)
    found = distillation.soft_loss(Items(ours, theirs, weights), kind="", temperature=1.0)
    p, q = softmax(teacher[[0, 2]]), softmax(student[[0, 2]])
    assert found.item() == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    found.backward()
    assert bool(torch.isfinite(ours.grad).all())
    assert bool((ours.grad[1] == 0).all())


def test_hidden_loss_is_the_mean_over_real_tokens() -> None:
    student, teacher = ([numbers(2, 3, 4, seed=s + k) for s in range(2)] for k in (0, 10))
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    wanted = [
        np.mean([((s[row] - t[row]) ** 2)[mask[row] == 1].mean() for s, t in zip(student, teacher, strict=True)])
        for row in range(2)
    ]
    found = distillation.hidden_loss(of(*student), of(*teacher), *of(mask))
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_attention_loss_is_summed_over_what_is_attended_to() -> None:
    student, teacher = softmax(numbers(2, 2, 3, 3)), softmax(numbers(2, 2, 3, 3, seed=1))
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    wanted = []
    for row in range(2):
        size = mask[row].sum()
        wanted.append(((student - teacher)[row, :, :size, :size] ** 2).sum(-1).mean())
    found = distillation.attention_loss(of(student), of(teacher), *of(mask))
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_attention_loss_of_other_numbers_of_heads_compares_their_means() -> None:
    student, teacher = softmax(numbers(1, 2, 3, 3)), softmax(numbers(1, 4, 3, 3, seed=1))
    wanted = ((student.mean(1) - teacher.mean(1)) ** 2).sum(-1).mean()
    found = distillation.attention_loss(of(student), of(teacher), *of(np.ones((1, 3))))
    assert found.tolist() == pytest.approx([wanted], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("uniform", (3, 6)), ("last", (5, 6)), ("1,6", (1, 6)), ("auto", (3, 6))],
)
def test_layer_map_is_as_named(given: str, wanted: tuple[int, ...]) -> None:
    assert distillation.layer_map(given, student=2, teacher=6) == wanted


def test_layer_map_of_a_cut_student_is_where_its_layers_come_from() -> None:
    assert distillation.layer_map("auto", student=2, teacher=6, cut=(0, 5)) == (1, 6)


def test_layer_map_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'1,7'.*one layer of the teacher, 1 to 6, for each of the student's 2"):
        distillation.layer_map("1,7", student=2, teacher=6)
    with pytest.raises(ConfigError, match=r"student has 8 layers and the teacher 6"):
        distillation.layer_map("auto", student=8, teacher=6)


@pytest.mark.parametrize(("student", "wanted"), [(1, (0,)), (2, (0, 5)), (3, (0, 2, 5)), (6, (0, 1, 2, 3, 4, 5))])
def test_spread_takes_even_steps(student: int, wanted: tuple[int, ...]) -> None:
    assert distillation.spread(student, 6) == wanted


def test_spread_of_too_many_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--student-layers is 7, and the teacher has 6 layers"):
        distillation.spread(7, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "distill.temperature is 0.0"),
        ({"alpha": 1.5}, "distill.alpha is 1.5"),
        ({"layer_map": "top"}, "distill.layer_map is 'top'"),
        ({"general_epochs": 1}, "distill.general_epochs is 1.*0 where distill.hidden and distill.attention"),
        ({"augment": 2}, "distill.augment_encoder is ''.*masked-LM head"),
    ],
)
def test_config_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillConfig(**settings)


def loaded(folder: Path, auto_class: str = "AutoModelForSequenceClassification") -> Any:
    source = encoder.Source(name="tiny", folder=folder)
    return encoder.load(source, auto_class=auto_class, labels=("no", "yes"), seed=1)


def test_cut_student_computes_with_the_layers_that_were_kept(tmp_path: Path) -> None:
    import torch

    whole = loaded(save_tiny_bert(tmp_path / "tiny", num_hidden_layers=4)).model
    cut = loaded(tmp_path / "tiny").model
    distillation.keep_layers(cut, (0, 2), "tiny")
    assert cut.config.num_hidden_layers == 2
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        states = whole.bert.embeddings(ids)
        for layer in (0, 2):
            states = whole.bert.encoder.layer[layer](states)
            states = states[0] if isinstance(states, tuple) else states
        wanted = whole.classifier(whole.bert.pooler(states))
        assert torch.allclose(cut(input_ids=ids).logits, wanted, atol=1e-6)
    cut.save_pretrained(tmp_path / "cut")
    from transformers import AutoModelForSequenceClassification

    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
    with torch.inference_mode():
        assert torch.allclose(again(input_ids=ids).logits, cut(input_ids=ids).logits, atol=1e-6)


@pytest.mark.parametrize("kept", [(2, 0), (0, 4), (1, 1)])
def test_layers_that_are_not_there_are_refused(kept: tuple[int, ...], tmp_path: Path) -> None:
    model = loaded(save_tiny_bert(tmp_path / "tiny", num_hidden_layers=4)).model
    with pytest.raises(ConfigError, match=r"layers of tiny in rising order, 0 to 3"):
        distillation.keep_layers(model, kept, "tiny")


def test_family_without_a_list_of_layers_is_refused() -> None:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 32}
    model = AlbertForSequenceClassification(AlbertConfig(vocab_size=23, num_hidden_layers=3, **sizes))
    with pytest.raises(ModelError, match=r"tiny \(AlbertForSequenceClassification\) has no list of 3 layers"):
        distillation.keep_layers(model, (0,), "tiny")


def test_family_whose_first_layer_is_another_is_refused_without_it() -> None:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 3}
    model = ModernBertForSequenceClassification(ModernBertConfig(vocab_size=23, pad_token_id=0, **sizes))
    with pytest.raises(ModelError, match=r"cannot be cut down to its layers 1, 2: they are not all alike"):
        distillation.keep_layers(model, (1, 2), "tiny")


def test_head_is_put_in_another_order(tmp_path: Path) -> None:
    import torch

    model = loaded(save_tiny_bert(tmp_path / "tiny")).model
    ids = torch.arange(5, 9)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        distillation.reorder_head(model, [1, 0])
        assert torch.equal(model(input_ids=ids).logits, before[:, [1, 0]])


def test_projections_are_trained_with_the_student_and_taken_away(tmp_path: Path) -> None:
    import torch

    model = loaded(save_tiny_bert(tmp_path / "tiny")).model
    names = list(model.state_dict())
    assert not distillation.attach(model, 16)
    assert distillation.attach(model, 24)
    outputs = model(input_ids=torch.arange(5, 9)[None], output_hidden_states=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(1, 4, 24)] * 3
    assert len(list(model.parameters())) == len(names) + 2
    distillation.detach(model)
    assert list(model.state_dict()) == names
    outputs = model(input_ids=torch.arange(5, 9)[None], output_hidden_states=True)
    assert tuple(outputs.hidden_states[0].shape) == (1, 4, 16)


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    import torch

    adapter = adapter_of("sequence-classification", kind="single")
    student, teacher = of(numbers(3, 2), numbers(3, 2, seed=1))
    target = torch.tensor([0, 1, 1])
    batch = {"attention_mask": torch.ones(3, 2), "labels": target, distillation.TAUGHT: teacher}
    outputs = SimpleNamespace(logits=student)
    lessons = distillation.Lessons(adapter=adapter, config=DistillConfig(alpha=0.7, temperature=3.0), think=None)
    found = lessons(lambda **inputs: outputs, batch)
    p, q = (softmax(logits.double().numpy() / 3) for logits in (teacher, student))
    hard = -np.log(softmax(student.double().numpy()))[[0, 1, 2], target].sum()
    assert float(found.sum) == pytest.approx(0.7 * 9 * (p * np.log(p / q)).sum() + 0.3 * hard, rel=1e-5)
    assert float(found.weight) == 3
    assert list(found.parts) == ["soft", "hard"]
    assert float(sum(found.parts.values())) == pytest.approx(float(found.sum))


def test_weights_of_answers_add_up_to_the_weight_of_the_task() -> None:
    import torch

    adapter = adapter_of("token-tagging", ("O", "A"))
    adapter.weights = [0.5, 2.0]
    owned = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    labels = torch.tensor([[-100, 0, 1, -100], [-100, 1, -100, -100]])
    batch = {"owned": owned, "labels": labels, "attention_mask": torch.ones(2, 4)}
    logits = torch.zeros(2, 4, 2)
    found = distillation.items(adapter, logits, logits, batch)
    weight = adapter.loss(SimpleNamespace(logits=logits), batch).weight
    assert float(found.weights.sum()) == float(weight) == 4.5
    assert distillation.row_weights(adapter, batch).tolist() == [2.5, 2.0]
