"""Checks that take long: intervals, parity with mmdet, precision, faults at full count."""
