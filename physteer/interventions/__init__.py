"""Interventions on activations, for any module: h' = h + Π (r(h) − h) at a site, on a locus.

A `Site` says which activation, a `Locus` which part of it and when, a `Subspace` Π which channels' directions, and a
`Replacement` r what comes in its place. An `Edit` puts the four together and `attached` applies edits to a model:

    edit = Edit("blocks.39", Steer(concept.direction, strength=0.5, mode="drop"))
    with attached(model, [edit]):
        y = model(x)

Any module of any model will do. Where the model does not say which axis is which, the site does: `blocks.3 as b c h w`,
`h.0.attn.c_proj.input[2] as b t (n=4 hd)` for an attention head before its projection.
"""

from physteer.interventions.attach import attached, captured, check_reached, hooked, observed, stopped_after
from physteer.interventions.boundless import BoundlessRotation
from physteer.interventions.conditions import UNSTEERED, Condition, Role, separated, stack_conditions
from physteer.interventions.edit import Edit, apply_edits
from physteer.interventions.erase import Erase
from physteer.interventions.layout import Layout, parse_layout
from physteer.interventions.locus import EVERYWHERE, Clock, Locus
from physteer.interventions.passes import (
    take_last_frame_snapshot,
    take_last_frame_snapshots,
    take_snapshot,
    take_snapshots,
)
from physteer.interventions.pieces import attached_to_pieces
from physteer.interventions.replacements import Interchange, InterchangeMean, Mean, Replacement, Resample, Scale, Zero
from physteer.interventions.replay import interchanged, replayed
from physteer.interventions.residual import Write, WritesResidual, leaves_of, resumed, write_of
from physteer.interventions.rotation import (
    ColumnGroup,
    LowRankRotation,
    OrthonormalColumns,
    check_gradient,
    evaluated_once,
)
from physteer.interventions.sites import (
    DeclaresLayouts,
    DeclaresSites,
    Place,
    Site,
    find_module,
    find_place,
    naming,
    path_pattern,
    site_names,
    unknown_layout,
    with_layout,
)
from physteer.interventions.snapshot import (
    LastFrameSnapshot,
    Snapshot,
    all_tensors,
    join_passes,
    join_snapshots,
    select_rows,
)
from physteer.interventions.staged_network import StagedNetwork
from physteer.interventions.stages import CarriesSkips, KeepsPast, StagedModel
from physteer.interventions.steer import Steer, SteerMode, fit_to_grid
from physteer.interventions.subspace import Complement, Span, Subspace, orthonormal

__all__ = [
    "EVERYWHERE",
    "UNSTEERED",
    "BoundlessRotation",
    "CarriesSkips",
    "Clock",
    "ColumnGroup",
    "Complement",
    "Condition",
    "DeclaresLayouts",
    "DeclaresSites",
    "Edit",
    "Erase",
    "Interchange",
    "InterchangeMean",
    "KeepsPast",
    "LastFrameSnapshot",
    "Layout",
    "Locus",
    "LowRankRotation",
    "Mean",
    "OrthonormalColumns",
    "Place",
    "Replacement",
    "Resample",
    "Role",
    "Scale",
    "Site",
    "Snapshot",
    "Span",
    "StagedModel",
    "StagedNetwork",
    "Steer",
    "SteerMode",
    "Subspace",
    "Write",
    "WritesResidual",
    "Zero",
    "all_tensors",
    "apply_edits",
    "attached",
    "attached_to_pieces",
    "captured",
    "check_gradient",
    "check_reached",
    "evaluated_once",
    "find_module",
    "find_place",
    "fit_to_grid",
    "hooked",
    "interchanged",
    "join_passes",
    "join_snapshots",
    "leaves_of",
    "naming",
    "observed",
    "orthonormal",
    "parse_layout",
    "path_pattern",
    "replayed",
    "resumed",
    "select_rows",
    "separated",
    "site_names",
    "stack_conditions",
    "stopped_after",
    "take_last_frame_snapshot",
    "take_last_frame_snapshots",
    "take_snapshot",
    "take_snapshots",
    "unknown_layout",
    "with_layout",
    "write_of",
]
