"""Experiments of 3D-to-2D networks: arms, numbers of masks and seeds on one store.

`declaration` and `jobs` say what is trained, `checks` and `running` check and train it.
`comparison` scores the runs on the test patients, and `tables`, `pictures` and `page` show it.
"""
