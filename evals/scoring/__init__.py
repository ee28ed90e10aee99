"""Draw, detect, judge, write down."""
