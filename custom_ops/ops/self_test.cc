#include "ops/introspection.h"
namespace bqc {
int self_test(std::string* report) {
  *report = "ok\n";
  return 0;
}
}  // namespace bqc
