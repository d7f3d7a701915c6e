from .batch_norm import with_batch_norm_of as with_batch_norm_of
from .folds import (
    Fold as Fold,
    domain_folds as domain_folds,
    held_out_fold as held_out_fold,
    patient_folds as patient_folds,
)
from .measures import Estimate as Estimate, ProbeTable as ProbeTable, difference as difference
from .probing import (
    ProbeOptions as ProbeOptions,
    chance_table as chance_table,
    probe as probe,
)
from .rank import effective_rank as effective_rank, rank_me as rank_me
from .volumes import ProbedVolume as ProbedVolume, read_volumes as read_volumes
