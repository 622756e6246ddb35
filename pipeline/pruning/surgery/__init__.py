"""Surgery: units leave a model for good, wherever that can be shown to be safe.

Every position along the unit axis of a tensor, or of a weight, has a label. The rules of the layers say which labels
pass on, which are the same unit, and which have to stay; what is left is grouped, scored elsewhere, and cut.
"""
