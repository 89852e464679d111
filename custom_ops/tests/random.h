// Random numbers of the kernel tests.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

using Random = std::mt19937;

inline int64_t between(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

template <class T>
std::vector<T> integers(Random& random, int64_t n, int64_t low, int64_t high) {
  std::vector<T> out(static_cast<size_t>(n));
  for (T& x : out) x = static_cast<T>(between(random, low, high));
  return out;
}
