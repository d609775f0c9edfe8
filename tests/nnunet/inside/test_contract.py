"""The names of nnU-Net on which our code relies, one test for each.

A new version of nnU-Net that lacks one fails the test of that name, which lists the
modules of ours that need it. The table is complete: `used_names` reads them from the
code of `nnunet/inside` and `nnunet/trainers`, and fails for a name that is not listed.
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import pytest

from nnunet_bridge import nnunet
from nnunet_bridge.nnunet.models import TRAINERS
from nnunet_bridge.nnunet.plans import _CLASS_AND_PLANS

ROOT = Path(nnunet.__file__).parent
FILES = sorted(f for d in ("inside", "trainers") for f in (ROOT / d).glob("*.py"))
LIBRARIES = (
    *("nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils"),
    "dynamic_network_architectures",
)

TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer"
TRAINING = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
PREDICTOR = "nnunetv2.inference.predict_from_raw_data.nnUNetPredictor"
HANDLER = "nnunetv2.utilities.plans_handling.plans_handler"
PLANS, CONFIGURATION = f"{HANDLER}.PlansManager", f"{HANDLER}.ConfigurationManager"
LABELS = "nnunetv2.utilities.label_handling.label_handling.LabelManager"
LOGGER = "nnunetv2.training.logging.nnunet_logger.MetaLogger"
LOADER = "nnunetv2.training.dataloading.data_loader.nnUNetDataLoader"
DATA = "nnunetv2.training.dataloading.nnunet_dataset.nnUNetDatasetBlosc2"
DEEP = "nnunetv2.training.loss.deep_supervision.DeepSupervisionWrapper"
AUGMENTER = (
    "batchgenerators.dataloading.nondet_multi_threaded_augmenter."
    "NonDetMultiThreadedAugmenter"
)
TRANSFORM = "batchgeneratorsv2.transforms.base.basic_transform.BasicTransform"
PREPROCESSOR = (
    "nnunetv2.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor"
)
WRITER = "nnunetv2.imageio.simpleitk_reader_writer.SimpleITKIO"

CALLED = {
    "trainer": TRAINER, "trainer_class": TRAINER, "predictor": PREDICTOR,
    "manager": PLANS, "plans_manager": PLANS, "member.plans": PLANS,
    "member:self.plans": PLANS, "member:self.configuration": CONFIGURATION,
    "member:self.label_manager": LABELS, "planned": CONFIGURATION,
    "member:preprocessor": PREPROCESSOR, "prediction:writer": WRITER,
    "stripping:kind": TRAINER, "whole_labels:kind": WRITER,
    "partly_drawn:module": TRAINING, "random_numbers:module": TRAINING,
    "partly_drawn:theirs": DEEP, "partly_drawn:data": DATA,
    "partly_drawn:self.data": DATA,
}  # fmt: skip
"""What our code calls a value of nnU-Net, in every file or in one -> its class."""

PARTS = {
    "plans_manager": PLANS, "configuration_manager": CONFIGURATION,
    "label_manager": LABELS, "logger": LOGGER,
}  # fmt: skip
"""Attribute of a trainer or predictor -> class of its value."""

BASES = {
    "nnUNetTrainer": TRAINER, "ReportAugmentation": TRAINER, "plain": AUGMENTER,
    "nnUNetDataLoader": LOADER, "BasicTransform": TRANSFORM,
    "ConfigurationManager": CONFIGURATION,
}  # fmt: skip
"""Base of a class of ours -> the class of nnU-Net; a mixin of trainers is one."""

CONTRACT = """
acvl_utils.cropping_and_padding.padding
    pad_nd_image(image, new_shape, mode, kwargs, return_slicer)
AUGMENTER _processes __init__(*, num_processes, seeds, ...) _finish(timeout, force)
batchgenerators.utilities.file_and_folder_operations load_pickle(file, mode)
batchgeneratorsv2.transforms.base.basic_transform BasicTransform()
TRANSFORM __init__() _apply_to_image(img) _apply_to_segmentation(segmentation)
    apply(data_dict) get_parameters()
batchgeneratorsv2.transforms.spatial.spatial
    SpatialTransform(patch_size, *, patch_center_dist_from_border, random_crop,
        p_rotation, rotation, border_mode_seg, padding_value_seg)
batchgeneratorsv2.transforms.utils.compose ComposeTransforms(transforms)
batchgeneratorsv2.transforms.utils.nnunet_masking
    MaskImageTransform(apply_to_channels, channel_idx_in_seg, set_outside_to)
batchgeneratorsv2.transforms.utils.pseudo2d Convert2DTo3DTransform()
    Convert3DTo2DTransform()
nnunetv2.evaluation.evaluate_predictions save_summary_json(results, output_file)
nnunetv2.evaluation.find_best_configuration
    find_best_configuration(dataset_name_or_id, allowed_trained_models, *,
        allow_ensembling, num_processes, overwrite, folds)
nnunetv2.experiment_planning.plan_and_preprocess_api
    extract_fingerprints(dataset_ids, *, num_processes, check_dataset_integrity)
    plan_experiments(dataset_ids, experiment_planner_class_name, *,
        gpu_memory_target_in_gb, overwrite_target_spacing)
    preprocess(dataset_ids, plans_identifier, *, configurations, num_processes)
nnunetv2.imageio.nibabel_reader_writer NibabelIO() NibabelIOWithReorient()
nnunetv2.imageio.simpleitk_reader_writer SimpleITKIO()
WRITER read_seg(seg_fname) write_seg(seg, output_fname, properties)
nnunetv2.inference.predict_from_raw_data PlansManager(plans_file_or_dict)
    ConfigurationManager(configuration_dict)
    determine_num_input_channels(plans_manager, configuration_or_config_manager,
        dataset_json)
    nnUNetPredictor(*, perform_everything_on_device, device)
    recursive_find_trainer_class_by_name(trainer_name)
PREDICTOR allowed_mirroring_axes configuration_manager dataset_json label_manager
    list_of_parameters network plans_manager
    initialize_from_trained_model_folder(model_training_output_dir, use_folds)
nnunetv2.inference.sliding_window_prediction
    compute_gaussian(tile_size, *, sigma_scale, value_scaling_factor, device)
    compute_steps_for_sliding_window(image_size, tile_size, tile_step_size)
PREPROCESSOR
    run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)
nnunetv2.preprocessing.resampling.default_resampling
    determine_do_sep_z_and_axis(force_separate_z, current_spacing, new_spacing,
        separate_z_anisotropy_threshold)
    resample_data_or_seg_to_shape(data, new_shape, current_spacing, new_spacing, *,
        is_seg, order, order_z, force_separate_z, separate_z_anisotropy_threshold)
    resize(image, output_shape, order, *, mode, anti_aliasing)
nnunetv2.run.run_training
    get_trainer_from_args(dataset_name_or_id, configuration, fold, trainer_name,
        plans_identifier)
    run_ddp(rank, ...)
    run_training(dataset_name_or_id, configuration, fold, trainer_class_name,
        plans_identifier, *, pretrained_weights, num_gpus,
        export_validation_probabilities, continue_training, val_with_best, device)
nnunetv2.training.data_augmentation.compute_initial_patch_size
    get_patch_size(final_patch_size, rot_x, rot_y, rot_z, scale_range)
nnunetv2.training.dataloading.data_loader nnUNetDataLoader(data, ...)
    threadpool_limits(limits, user_api)
LOADER _data transforms __init__(data, ...)
    get_bbox(data_shape, force_fg, class_locations, overwrite_class, verbose)
DATA identifiers load_case(identifier)
LOGGER loggers get_value(key, step) plot_progress_png(output_folder)
nnunetv2.training.loss.deep_supervision DeepSupervisionWrapper(loss, weight_factors)
DEEP loss
nnunetv2.training.loss.dice
    MemoryEfficientSoftDiceLoss(apply_nonlin, batch_dice, do_bg, smooth, ddp)
TRAINING NonDetMultiThreadedAugmenter
    compute_metrics_on_folder(folder_ref, folder_pred, output_file, ...)
    nnUNetTrainer(plans, configuration, fold, dataset_json, device)
TRAINER _best_ema configuration_manager current_epoch dataset_json device
    enable_deep_supervision inference_allowed_mirroring_axes initial_lr is_ddp
    label_manager local_rank logger loss network num_epochs num_iterations_per_epoch
    num_val_iterations_per_epoch optimizer output_folder oversample_foreground_percent
    plans_manager preprocessed_dataset_folder preprocessed_dataset_folder_base
    save_every __init__(plans, configuration, fold, dataset_json, device) _build_loss()
    _do_i_compile()
    build_network_architecture(plans_manager, configuration_manager,
        num_input_channels, num_output_channels, enable_deep_supervision)
    configure_optimizers() configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    do_split() get_dataloaders() get_tr_and_val_datasets()
    get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales,
        mirror_axes, do_dummy_2d_data_aug, use_mask_for_norm, is_cascaded,
        foreground_labels, regions, ignore_label)
    get_validation_transforms(deep_supervision_scales, is_cascaded,
        foreground_labels, regions, ignore_label)
    initialize() on_epoch_end() on_train_end() on_train_epoch_end(train_outputs)
    on_train_epoch_start() on_train_start() perform_actual_validation(...)
    plot_network_architecture() print_to_log_file(...) run_training()
    save_checkpoint(filename) set_deep_supervision_enabled(enabled) train_step(batch)
    validation_step(batch)
nnunetv2.utilities.ddp_allgather AllGatherGrad
nnunetv2.utilities.default_n_proc_DA get_allowed_n_proc_DA()
nnunetv2.utilities.find_objects
    recursive_find_python_class(folder, class_name, current_module, ...)
nnunetv2.utilities.helpers softmax_helper_dim1(x)
nnunetv2.utilities.label_handling.label_handling
    convert_labelmap_to_one_hot(segmentation, all_labels, output_dtype)
LABELS foreground_labels has_regions ignore_label num_segmentation_heads
HANDLER PlansManager(plans_file_or_dict)
CONFIGURATION batch_dice batch_size configuration network_arch_class_name
    network_arch_init_kwargs network_arch_init_kwargs_req_import patch_size
    preprocessor_class previous_stage_name resampling_fn_probabilities
    resampling_fn_seg spacing
PLANS available_configurations image_reader_writer_class plans plans_name
    transpose_backward transpose_forward get_configuration(configuration_name)
    get_label_manager(dataset_json)
"""
"""What our code uses: a module or class, then its names.

``name(a, b, *, c)``: the first parameters are `a` and `b`, there is one called `c`, and
no other is required; ``...`` for others that we pass on as they come.
"""

JSON_READERS = (
    "nnunetv2.inference.predict_from_raw_data", "nnunetv2.run.run_training",
    "nnunetv2.experiment_planning.plan_and_preprocess_api", HANDLER,
    "nnunetv2.preprocessing.preprocessors.default_preprocessor",
)  # fmt: skip
"""Modules in which `safety.json_read_by` replaces `load_json`."""

WORDS = {
    TRAINING: """
        network_weights trainer_name inference_allowed_mirroring_axes current_epoch
        init_args tp_hard fp_hard fn_hard target loss debug.json plans.json dataset.json
        splits_final.json summary.json checkpoint_latest.pth checkpoint_best.pth
        checkpoint_final.pth train_losses val_losses lrs mean_fg_dice
        epoch_start_timestamps epoch_end_timestamps dice_per_class_or_region
        nnUNet_compile
    """,
    "nnunetv2.evaluation.evaluate_predictions": """
        metric_per_case reference_file prediction_file
    """,
    "nnunetv2.preprocessing.preprocessors.default_preprocessor": """
        shape_before_cropping shape_after_cropping_and_before_resampling
        bbox_used_for_cropping
    """,
    "nnunetv2.imageio.simpleitk_reader_writer": "sitk_stuff direction spacing origin",
    "nnunetv2.paths": "nnUNet_raw nnUNet_preprocessed nnUNet_results nnUNet_extTrainer",
    "nnunetv2.configuration": "nnUNet_def_n_proc",
    "nnunetv2.utilities.default_n_proc_DA": "nnUNet_n_proc_DA",
}
"""Keys, files and variables that our code knows, by the module that writes them."""

CLASSES = {
    "nnunetv2.experiment_planning": [name for name, _ in _CLASS_AND_PLANS.values()],
    "nnunetv2.training.nnUNetTrainer": sorted(t for t in TRAINERS if t[0] == "n"),
    "dynamic_network_architectures.architectures.unet": [
        "PlainConvUNet", "ResidualEncoderUNet",
    ],
}  # fmt: skip
"""Classes that our commands, plans and checks of models name."""


def modules_and_names(tree):
    """Return what the imports of a file call modules, and the names that it imports."""
    modules, names = {}, set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.partition(".")[0] not in LIBRARIES:
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            if importlib.util.find_spec(node.module).submodule_search_locations and (
                importlib.util.find_spec(whole)
            ):
                modules[alias.asname or alias.name] = whole
            else:
                names.add((node.module, alias.name))
    return modules, names


@functools.cache
def found(owner):
    """Return a module or class of nnU-Net by its whole name."""
    try:
        return importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, name = owner.rpartition(".")
        return getattr(importlib.import_module(module), name)


@functools.cache
def assigned(owner):
    """Return the names that the methods of a class, or of its bases, give a value."""
    if inspect.ismodule(found(owner)):
        return set()
    names = set()
    for one in found(owner).__mro__[:-1]:
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def defines(owner, name):
    return hasattr(found(owner), name) or name in assigned(owner)


def our_classes(trees):
    """Return our classes that derive from one of nnU-Net's, with that class."""
    classes = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    known = dict(BASES)
    while more := {
        node.name: known[base]
        for node in classes
        for base in map(ast.unparse, node.bases)
        if base in known and node.name not in known
    }:
        known |= more
    return known


def chains(node, owner, values):
    """Yield (class or module, name) of an expression such as ``trainer.logger.log``."""
    words = ast.unparse(node.value)
    if words in values:
        yield values[words], node.attr
    elif words in ("self", "super()") and owner and defines(owner, node.attr):
        yield owner, node.attr
    elif isinstance(node.value, ast.Attribute) and node.value.attr in PARTS:
        inner = list(chains(node.value, owner, values))
        if inner and inner[0][0] in (TRAINER, PREDICTOR):
            yield PARTS[node.value.attr], node.attr


def names_in(node, owner, values, ours):
    """Yield the names of nnU-Net that a piece of code uses or overrides."""
    if isinstance(node, ast.ClassDef):
        owner = ours.get(node.name)
        for part in node.body:
            if owner and isinstance(part, ast.FunctionDef):
                own = part.name.startswith("__") and part.name != "__init__"
                if defines(owner, part.name) and not own:
                    yield owner, part.name
    if isinstance(node, ast.Attribute):
        yield from chains(node, owner, values)
    for child in ast.iter_child_nodes(node):
        yield from names_in(child, owner, values, ours)


def used_names():
    """Return {(class or module, name): our modules that use it}."""
    trees = {file: ast.parse(file.read_text("utf-8")) for file in FILES}
    ours = our_classes(trees.values())
    own = {
        getattr(node, "attr", getattr(node, "name", None)) or ast.unparse(node.target)
        for tree in trees.values()
        for body in ast.walk(tree)
        if isinstance(body, ast.ClassDef) and body.name in ours
        for node in ast.walk(body)
        if isinstance(node, ast.FunctionDef | ast.AnnAssign)
    } | {"encoder_weights", "augmentation_name", "swaps"}
    used = defaultdict(set)
    for file, tree in trees.items():
        modules, imported = modules_and_names(tree)
        for name, kind in CALLED.items():
            where, _, value = name.rpartition(":")
            if where in ("", file.stem):
                modules.setdefault(value, kind)
        for name in (*imported, *names_in(tree, None, modules, ours)):
            if defines(*name) or name[1] not in own:
                used[name].add(f"{file.parent.name}/{file.name}")
    return used


USED = used_names()
VARIADIC = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
LISTED = {
    (globals().get(owner, owner), name): form
    for owner, text in re.findall(
        r"^(\S+)((?:\s+.*)?(?:\n    .*)*)", CONTRACT, re.MULTILINE
    )
    for name, form in re.findall(r"(\w+)(?:\(([^)]*)\))?", text)
}


@pytest.mark.parametrize(("owner", "name"), LISTED, ids=lambda text: text[-50:])
def test_nnunet_has_the_name_with_the_parameters_that_we_use(owner, name):
    changed = f"needed by {', '.join(sorted(USED[owner, name]))}"
    assert defines(owner, name), changed
    thing, form = getattr(found(owner), name, None), LISTED[owner, name]
    if not (form or inspect.isroutine(thing)):
        return
    first, named = (re.findall(r"\w+", part) for part in f"{form}*".split("*")[:2])
    has = inspect.signature(thing).parameters.values()
    has = [p for p in has if p.name != "self" and p.kind not in VARIADIC]
    assert [p.name for p in has][: len(first)] == first, changed
    assert set(named) <= {p.name for p in has}, changed
    needed = {p.name for p in has if p.default is p.empty} - {*first, *named}
    assert "..." in form or not needed, changed


def test_every_name_that_we_use_is_listed():
    assert USED.keys() - LISTED.keys() == set(), "add it to CONTRACT"
    assert LISTED.keys() - USED.keys() == set(), "no longer used"


@pytest.mark.parametrize("module", JSON_READERS)
def test_the_module_reads_json_by_a_function_that_can_be_replaced(module):
    assert callable(found(module).load_json)


@pytest.mark.parametrize(
    ("module", "word"), [(m, w) for m, text in WORDS.items() for w in text.split()]
)
def test_nnunet_still_writes_the_word(module, word):
    ours = [f for f in ROOT.rglob("*.py") if word in f.read_text("utf-8")]
    assert ours, "no longer used"
    source = Path(found(module).__file__).read_text("utf-8")
    more = Path(found("nnunetv2.training.logging.nnunet_logger").__file__)
    source += more.read_text("utf-8") if module == TRAINING else ""
    assert re.search(rf"['\"/]{re.escape(word)}['\"/]", source), [f.name for f in ours]


@pytest.mark.parametrize(
    ("package", "name"), [(p, name) for p, names in CLASSES.items() for name in names]
)
def test_nnunet_has_the_class(package, name):
    place = Path(found(package).__file__)
    files = place.parent.rglob("*.py") if place.name == "__init__.py" else [place]
    pattern = re.compile(rf"^class {name}\b", re.MULTILINE)

    assert any(pattern.search(file.read_text("utf-8")) for file in files)
