"""Networks that segment a 2D map from a 3D volume (Morano et al., MICCAI 2023).

`axes` says how a volume is laid out. `blocks` and `encoder_decoder` hold what the networks share;
`fpn`, `resensnet`, `lachinov` and `baselines` define one network each, and `registry` creates them
by name.
"""
