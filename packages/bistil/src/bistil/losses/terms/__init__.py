"""The terms of both phases, a file each: a function `(student, teacher, context) -> Tensor` and its formula."""
