"""GenEval's detector, Mask2Former Swin-S, from published weights of either layout."""
