"""What every call checks first."""

from __future__ import annotations

import pytest
from torch import nn

from aronnax.collections.common.calls import at_least_one, check_mode
from aronnax.core.errors import OptionError


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_what_is_no_whole_number_of_at_least_one_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match=r"^batch_size=.* must be a whole number of at least 1$"):
        at_least_one("batch_size", value)


def test_training_mode_is_refused() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(OptionError, match=r"call model\.eval\(\) first"):
        check_mode(model)
    check_mode(model.eval())
