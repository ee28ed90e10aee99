"""Flow Matching, IMM and the pretrained models Self-E is compared with."""
