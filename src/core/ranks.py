"""Forget which of several processes a job scheduler says that this one is: a command is one alone.

Lightning and torchmetrics read the rank when they are imported, and fail where it is no number. The
package imports this module before anything else.
"""

import os

for _variable in (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"),
    *("SLURM_PROCID", "JSM_NAMESPACE_RANK"),
):
    os.environ.pop(_variable, None)
