#include "params.h"
#include "device/numeric.cuh"
