"""The training loop, its state, checkpoints and provenance.

Key types
---------
Objective : networks and a loss in one module; gives the losses of a batch.
FitConfig : settings of the optimiser and of the loop.
fit : train an objective from a source of batches; `take_step` is one step of it.
TrainState : everything that changes during training, saved in checkpoints.
Monitor : observes a training run between steps.
checkpoint : the files of a run.
Optimizer : an optimiser and its options, as a recipe gives them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
