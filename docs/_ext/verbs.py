"""Public names by what one does with them; a test holds that each name of ``foveal`` stands under one verb."""

from importlib import import_module

from tables import _first_sentence, _markdown, documented_as, table

VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "use": {
        "foveal": (
            *("create_attention", "list_attentions", "AttentionConfig", "SoftmaxAttention", "DenoisingAttention", "DifferentialAttention"),
            *("ExternalAttention", "EfficientAttention", "LinearAttention", "HaloAttention", "CausalAttention", "CrossSampleAttention"),
            *("CrossSampleDictionary", "ComplementaryCBAM", "ExternalAttention2d", "EfficientAttention2d", "LinearAttention2d"),
            *("ChannelLinearAttention2d", "HaloAttention2d", "InputError"),
        ),
    },
    "convert": {
        "foveal": (
            *("convert_", "convert", "insert_", "widen_", "revert_", "calibrate_", "fuse_", "catt_lxmert_", "every_nth", "last_stage", "global_only"),
            *("ConversionReport", "CalibrationReport"),
        ),
    },
    "train": {
        "foveal": ("param_groups", "fit_dictionaries_"),
        "foveal.lab.training": ("Recipe", "fit", "load_run", "load_data"),
        "foveal.lab.recipes": ("get_recipe", "list_recipes"),
    },
    "judge": {
        "foveal": ("cost",),
        "foveal.lab.training": ("evaluate",),
        "foveal.lab.compare": ("make_plan", "make_network_plan", "run_plan", "write_results", "write_report"),
    },
    "look": {
        "foveal": ("show", "attention_maps", "rollout", "lambdas", "principal_angles"),
    },
    "export": {
        "foveal": ("save_pretrained", "from_pretrained", "push_to_hub", "save_delta", "load_delta", "export_model"),
    },
    "extend": {
        "foveal": ("register_host",),
        "foveal.attention": ("register", "TokenAttention", "QKVAttention"),
    },
}


@table
def by_verb(verb: str) -> str:
    """Names that one does this with, each a link to where it is documented."""
    rows = []
    for module, names in VERBS[verb].items():
        loaded = import_module(module)
        for name in names:
            value = getattr(loaded, name)
            role = "exc" if isinstance(value, type) and issubclass(value, Exception) else "class" if isinstance(value, type) else "func"
            rows.append((f"{{py:{role}}}`{name} <{documented_as(module, name)}>`", _first_sentence(value)))
    return _markdown(("name", "what it is"), rows)
