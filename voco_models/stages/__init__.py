"""The stages of an experiment: pretraining, fine-tuning, evaluation, prediction, and their recipes.

Key functions
-------------
pretrain : self-supervised training on stores.
finetune : train the classifier, a model for each fold.
project : train 3D-to-2D networks, which give maps of organs.
project_arrays : the same for volumes in memory, such as OCT.
localise : boxes of organs and of the abdomen, from such networks.
evaluate : score a run on its test patients.
compare_runs : differences between two runs on the same patients.
predict : apply a finished run to new series.
make_model_card : a folder with the card and the weights of a finished run.
explain : which slices and places a finished run uses.
export_onnx : the classifiers of a finished run as one ONNX file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
