"""All faults: importing the modules that declare them enters them into the table."""

from faults import attention_faults, block_faults, embedding_faults, layer_faults, reorganization_faults, shunted_faults
from faults.table import FAULTS, Fault

DECLARED = (layer_faults, attention_faults, reorganization_faults, block_faults, embedding_faults, shunted_faults)
BY_ID = {fault.id: fault for fault in FAULTS}

__all__ = ["BY_ID", "DECLARED", "FAULTS", "Fault"]
