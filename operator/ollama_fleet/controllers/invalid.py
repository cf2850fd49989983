"""What to tell people about a spec that the API server took and the operator cannot read."""

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """``spec.path.to.field: what is wrong``, for the first of the errors."""
    found = error.errors(include_url=False, include_input=False)[0]
    return f"spec.{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
