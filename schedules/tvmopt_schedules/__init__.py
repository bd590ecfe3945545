"""Operator definitions, schedule rules and tensor intrinsics; imports tvm and nothing of tvmopt."""
