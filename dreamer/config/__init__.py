"""The full configuration of a run, as a package.

settings      the settings that belong to no lower package, and `Config`, which composes all of them
composition   configurations from a preset, a size and changes by dotted path, and their validation
serialization JSON in the run folder, and what older versions wrote
renamed       old names of settings
resuming      settings that a resumed run may change
identity      settings that a run uses, and those that tell runs apart
"""

from dreamer.config.composition import compose, override, resized, size_settings, validated
from dreamer.config.identity import BY_SIZE, group_name, identity, used_settings, used_tree
from dreamer.config.renamed import RENAMED, current_name
from dreamer.config.resuming import Effect, changeable, changes, leaves
from dreamer.config.serialization import from_dict, from_json, to_json
from dreamer.config.settings import (
    Config,
    DeviceName,
    EnvironmentConfig,
    GuardConfig,
    LoopConfig,
    PresetName,
    SizeName,
    words,
)
from dreamer.presets import PRESETS, SIZES

__all__ = [
    "BY_SIZE",
    "PRESETS",
    "RENAMED",
    "SIZES",
    "Config",
    "DeviceName",
    "Effect",
    "EnvironmentConfig",
    "GuardConfig",
    "LoopConfig",
    "PresetName",
    "SizeName",
    "changeable",
    "changes",
    "compose",
    "current_name",
    "from_dict",
    "from_json",
    "group_name",
    "identity",
    "leaves",
    "override",
    "resized",
    "size_settings",
    "to_json",
    "used_settings",
    "used_tree",
    "validated",
    "words",
]
