"""The estate: declared once, checked whole, never changed by a run."""

from ninelives.estate.load import load_estate
from ninelives.estate.model import Approval, Dataset, DrillPolicy, Estate, Golden, Mode, Model, Objective, Role, Service

__all__ = [
    "Approval",
    "Dataset",
    "DrillPolicy",
    "Estate",
    "Golden",
    "Mode",
    "Model",
    "Objective",
    "Role",
    "Service",
    "load_estate",
]
