// Elementary functions in double from additions, multiplications and divisions alone, in a fixed order: the same bits
// on every machine and with every C library. For everything that must not differ between members of a job:
// schedules, bias corrections, rotary tables, losses.
//
// Errors of exp, log, sin and cos are within 2 ulp over the ranges a training run uses.
//
// Thread contract: pure functions.
#pragma once

namespace planaria {

// e^x; 0 below -745, infinity above 709.78.
[[nodiscard]] double det_exp(double x);
// Natural logarithm; -infinity for 0, NaN below.
[[nodiscard]] double det_log(double x);
// x^y for x > 0; relative error below 1e-15 * (1 + |y * log x|).
[[nodiscard]] double det_pow(double x, double y);
// For |x| up to 1e6.
[[nodiscard]] double det_sin(double x);
[[nodiscard]] double det_cos(double x);

}  // namespace planaria
