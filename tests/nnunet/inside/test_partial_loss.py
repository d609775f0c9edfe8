"""The loss of partly drawn cases: its formulas, its gradient, and nnU-Net's own."""

import json
import multiprocessing
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from literal_loss import literal_loss
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, get_tp_fp_fn_tn

from nnunet_bridge.nnunet.inside.partial_loss import Coding, DiceForm, PartialLoss
from nnunet_bridge.nnunet.trainers.report_losses import ReportLoss

SETS = (frozenset(), frozenset({2}), frozenset({1, 3}), frozenset({1, 2, 3}))
OUTPUTS, SHAPE = 4, (3, 5)
FORMS = [
    (DiceForm(batch=False, background=False, ddp=False), "ce"),
    (DiceForm(batch=True, background=False, ddp=False), "ce"),
    (DiceForm(batch=True, background=True, ddp=False), "focal"),
    (DiceForm(batch=True, background=True, ddp=False), ""),
]
NAMES = ["sample by sample", "whole batch", "report with focal", "report"]
forms = pytest.mark.parametrize(("form", "voxels"), FORMS, ids=NAMES)


def a_batch(rng, *, samples=3, ignore=False, whole=True):
    """Return logits, a coded target, and the same voxels for the literal loss.

    A sample is of one set, or each voxel of its own (one side drawn): of a `whole`
    batch the last. The first of that is complete. All have voxels outside the image.
    """
    coding = Coding(OUTPUTS, ignore, SETS)
    size = int(np.prod(SHAPE))
    logits = rng.normal(0, 3, (samples, OUTPUTS, size))
    codes, voxels = [], []
    for n in range(samples):
        of_sample = rng.integers(1, len(SETS)) if n or not whole else 0
        numbers = np.full(size, of_sample)
        if n == samples - 1 and whole:
            numbers = rng.integers(1, len(SETS), size)
        row, code = [], []
        for number in map(int, numbers):
            open_ = SETS[number]
            label = int(rng.choice([c for c in range(OUTPUTS) if c not in open_]))
            where = str(rng.choice(["inside"] * 8 + ["outside", "ignored"]))
            if where == "ignored" and ignore:
                label = OUTPUTS
            elif where == "ignored":
                where = "inside"
            label = 0 if where == "outside" else label
            code.append(label + (where != "outside") * number * coding.base)
            row.append((label, open_, where))
        codes.append(code)
        voxels.append(row)
    target = torch.tensor(codes, dtype=torch.int16).reshape(samples, 1, *SHAPE)
    return logits, target, voxels, coding


def as_torch(logits, **options):
    shape = (*logits.shape[:2], *SHAPE)
    return torch.tensor(logits.reshape(shape), dtype=torch.float32, **options)


@forms
@pytest.mark.parametrize("ignore", [False, True])
def test_the_loss_is_that_of_the_formulas_voxel_by_voxel(form, voxels, ignore):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        how = {"ignore": ignore, "whole": seed % 2 == 0}
        logits, target, literal, coding = a_batch(rng, **how)

        found = PartialLoss(coding, form, voxels)(as_torch(logits), target)

        how = {"batch": form.batch, "background": form.background, "kind": voxels}
        assert found.item() == pytest.approx(
            literal_loss(logits, literal, **how), rel=1e-5, abs=1e-6
        )


@forms
def test_the_gradient_is_the_slope_of_the_formulas(form, voxels):
    rng = np.random.default_rng(7)
    logits, target, literal, coding = a_batch(rng)
    how = {"batch": form.batch, "background": form.background, "kind": voxels}
    leaf = as_torch(logits, requires_grad=True)
    PartialLoss(coding, form, voxels)(leaf, target).backward()
    slopes = leaf.grad.flatten(2).numpy()

    for place in zip(*(rng.integers(0, n, 40) for n in logits.shape), strict=True):
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        rise = literal_loss(up, literal, **how) - literal_loss(down, literal, **how)
        assert slopes[place] == pytest.approx(rise / 2e-5, rel=1e-3, abs=2e-6)


@given(
    st.integers(0, 2**31), st.booleans(), st.booleans(), st.sampled_from([(6,), (3, 4)])
)
@examples(40)
def test_without_a_partly_drawn_case_the_losses_are_those_of_nnunet_and_the_report(
    seed, batch, ignore, shape
):
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, OUTPUTS, *shape, generator=rng)
    target = torch.randint(OUTPUTS + ignore, (2, 1, *shape), generator=rng).short()
    coding = Coding(OUTPUTS, ignore, SETS)
    ignored = OUTPUTS if ignore else None
    dice = {"batch_dice": batch, "smooth": 1e-5, "do_bg": False, "ddp": False}
    theirs = DC_and_CE_loss(
        dice, {}, ignore_label=ignored, dice_class=MemoryEfficientSoftDiceLoss
    )

    ours = PartialLoss(coding, DiceForm(batch, background=False, ddp=False), "ce")

    expected = theirs(logits, target)
    torch.testing.assert_close(ours(logits, target), expected, rtol=1e-5, atol=1e-6)
    for focal in (False, True):
        report = ReportLoss(with_focal=focal, ignore_label=ignored)(logits, target)
        form = DiceForm(batch=True, background=True, ddp=False)
        found = PartialLoss(coding, form, "focal" if focal else "")(logits, target)
        torch.testing.assert_close(found, report, rtol=1e-5, atol=1e-6)


@forms
def test_what_the_network_says_of_structures_that_were_not_drawn_is_only_background(
    form, voxels
):
    """Background and what was not drawn may share their probability in any way."""
    coding = Coding(OUTPUTS, has_ignore=False, sets=SETS)
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(2, OUTPUTS, 50, generator=rng)
    label = torch.where(torch.rand(2, 1, 50, generator=rng) < 0.5, 0, 2)
    target = label + 2 * coding.base  # 1 and 3 were not drawn
    shares = torch.rand(2, 3, 50, generator=rng)
    together = logits[:, [0, 1, 3]].logsumexp(1, keepdim=True)
    other = logits.clone()
    other[:, [0, 1, 3]] = together + torch.log(shares / shares.sum(1, keepdim=True))

    loss = PartialLoss(coding, form, voxels)

    torch.testing.assert_close(loss(other, target), loss(logits, target))
    assert loss(other + torch.tensor([0, 0, 1.0, 0])[:, None], target) != pytest.approx(
        loss(logits, target).item(), abs=1e-3
    )


@forms
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_finite_and_that_of_the_same_numbers(
    form, voxels, kind
):
    logits, target, literal, coding = a_batch(np.random.default_rng(1))
    half = as_torch(20 * logits).to(kind).requires_grad_()
    with torch.autocast("cpu", dtype=kind):
        found = PartialLoss(coding, form, voxels)(half, target)
    found.backward()

    same = half.detach().double().flatten(2).numpy()
    how = {"batch": form.batch, "background": form.background, "kind": voxels}
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(literal_loss(same, literal, **how), rel=1e-4)
    assert torch.isfinite(half.grad).all()


def test_the_pseudo_dice_counts_a_structure_where_it_was_drawn():
    logits, target, literal, coding = a_batch(np.random.default_rng(4), ignore=True)
    found = PartialLoss(coding, FORMS[0][0], "ce").hard_counts(as_torch(logits), target)

    expected = np.zeros((3, OUTPUTS))
    for n, sample in enumerate(literal):
        inside = [open_ for _, open_, where in sample if where != "outside"]
        everywhere = frozenset.intersection(*inside)
        for v, (label, open_, where) in enumerate(sample):
            guess = int(np.argmax(logits[n, :, v]))
            for c in set(range(OUTPUTS)) - (
                everywhere if where == "outside" else open_
            ):
                if where != "ignored":
                    expected[0, c] += guess == c == label
                    expected[1, c] += guess == c != label
                    expected[2, c] += label == c != guess
    np.testing.assert_array_equal(torch.stack(found).numpy(), expected)


def test_of_complete_cases_the_pseudo_dice_counts_as_nnunet_does():
    rng = torch.Generator().manual_seed(5)
    logits = torch.randn(2, OUTPUTS, 9, 9, generator=rng)
    target = torch.randint(OUTPUTS, (2, 1, 9, 9), generator=rng)
    guess = torch.nn.functional.one_hot(logits.argmax(1), OUTPUTS).movedim(-1, 1)
    theirs = get_tp_fp_fn_tn(guess.float(), target, axes=[0, 2, 3])[:3]

    ours = PartialLoss(Coding(OUTPUTS, has_ignore=False, sets=SETS), *FORMS[0])

    for found, expected in zip(ours.hard_counts(logits, target), theirs, strict=True):
        torch.testing.assert_close(found, expected)


def half_of_a_batch(rank, folder):
    """Return the loss of two of four samples and its gradient, in one of two processes.

    Some structures were drawn in the half of one process only.
    """
    limit = {"timeout": timedelta(seconds=60), "world_size": 2, "rank": rank}
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, **limit)
    try:
        logits, target, _, coding = a_batch(
            np.random.default_rng(10), whole=False, samples=4
        )
        mine, (form, voxels) = slice(2 * rank, 2 * rank + 2), FORMS[1]
        leaf = as_torch(logits)[mine].requires_grad_()
        loss = PartialLoss(coding, replace(form, ddp=True), voxels)(leaf, target[mine])
        loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    return loss.item(), leaf.grad.tolist()


def second_half(folder):
    """Write what the second process finds."""
    (folder / "second").write_text(json.dumps(half_of_a_batch(1, folder)))


def test_on_two_gpus_the_dice_is_that_of_the_whole_batch(tmp_path):
    logits, target, _, coding = a_batch(
        np.random.default_rng(10), whole=False, samples=4
    )
    leaf = as_torch(logits, requires_grad=True)
    whole = PartialLoss(coding, *FORMS[1])(leaf, target)
    whole.backward()

    spawn = multiprocessing.get_context("spawn")
    other = spawn.Process(target=second_half, args=(tmp_path,), daemon=True)
    other.start()
    first = half_of_a_batch(0, tmp_path)
    other.join(60)

    second = json.loads((tmp_path / "second").read_text())
    losses, slopes = zip(first, second, strict=True)
    assert sum(losses) / 2 == pytest.approx(whole.item(), rel=1e-5)
    together = torch.tensor(slopes).flatten(0, 1) / 2  # DDP takes the mean
    torch.testing.assert_close(together, leaf.grad, rtol=1e-4, atol=1e-6)
