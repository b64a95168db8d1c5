"""What torch does while a test looks, in counts: times would be another machine's."""

from collections import Counter

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Within it `called` counts operations by name, and `made` the tensors, by shape, that have memory of their own."""

    def __init__(self):
        super().__init__()
        self.called, self.made = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {each.untyped_storage().data_ptr() for each in args if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        self.called[function.overloadpacket.__name__] += 1
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in given:
                self.made[tuple(each.shape)] += 1
        return result
