/* cli/from_latents.h: `kinema generate --from-latents`: latents of an earlier run to a clip. */
#ifndef KIN_CLI_FROM_LATENTS_H
#define KIN_CLI_FROM_LATENTS_H

#include "cli/common.h"

/* Decodes the file of --from-latents with the VAE of -m (its folder, or a model directory with
 * vae/) into -o. Settings and rate are those of the file, as if its run had gone on. Fails:
 * KIN_ERR_ARG (flags of sampling beside it), KIN_ERR_FORMAT (latents of another VAE, a file that
 * holds none), KIN_ERR_MEM, what decoding and writing say. */
kin_status kin_generate_from_latents(const kin_args *args, kin_error *err);

#endif
