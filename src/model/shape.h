/* model/shape.h - sizes of published models, for random weights of their shape.
 *
 * Sizes are those of the published config.json files, kept in that form, so that a shape is read as a folder is.
 */
#ifndef MODEL_SHAPE_H
#define MODEL_SHAPE_H

#include "tensor/dtype.h"

/* The configuration of a shape; NULL: not known. */
const char *model_shape_find(const char *name);
/* Names of all shapes with ", " between; for messages. */
const char *model_shape_names(void);
/* The type that --quant names ("q4_0"); NULL: not one that random weights can have. */
const dtype_info *model_shape_type(const char *quant);

#endif
