"""One file per family: builder, variants, domains, pretrained tags and references. A new file here is found by itself.

The layers of a model are named `level_operation`: `block1_conv1`, `block1_relu1`, `block1_pool`, `hidden1_dense`,
`hidden1_sigmoid`, `logits`. The part before the underscore is the level, and the level's features are the output of the
last of its layers that does something at inference; see `zoo.feature_extractor`.
"""
