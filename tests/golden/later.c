/* tests/golden/later.c: what belongs to later work, by kind and, where a kind has classes, by the
 * value of one key of its config. A case listed here fails when it is named directly; the walk over
 * a folder of cases prints it as skipped. */
#include "tests/golden/golden.h"

#include <string.h>

typedef struct later_row {
    const char *kind;
    const char *key;   /* NULL: every case of the kind. "a.b": key b of the object a */
    const char *value; /* "true" for a boolean */
    const char *why;
} later_row;

static const char other_scheduler[] = "scheduler class of later work";
static const char cogvideox[] = "CogVideoX belongs to later work";
static const char vae[] = "VAEs belong to later work";
static const char ddpm[] = "the DDPM objective and its samplers belong to later work";

static const later_row rows[] = {
    {"scheduler", "class", "CogVideoXDDIMScheduler", other_scheduler},
    {"scheduler", "class", "CogVideoXDPMScheduler", other_scheduler},
    {"scheduler", "class", "DDIMScheduler", other_scheduler},
    {"scheduler", "class", "DDPMScheduler", other_scheduler},
    {"scheduler", "class", "DPMSolverMultistepScheduler", other_scheduler},
    {"scheduler", "class", "EulerDiscreteScheduler", other_scheduler},
    {"scheduler", "class", "EulerAncestralDiscreteScheduler", other_scheduler},
    {"scheduler", "class", "FlowMatchHeunDiscreteScheduler", other_scheduler},
    {"scheduler", "class", "HeunDiscreteScheduler", other_scheduler},
    {"scheduler", "class", "UniPCMultistepScheduler", other_scheduler},
    {"schedule", "class", "CogVideoXDDIMScheduler", other_scheduler},
    {"schedule", "class", "CogVideoXDPMScheduler", other_scheduler},
    {"schedule", "class", "DDIMScheduler", other_scheduler},
    {"schedule", "class", "DDPMScheduler", other_scheduler},
    {"schedule", "class", "DPMSolverMultistepScheduler", other_scheduler},
    {"schedule", "class", "EulerDiscreteScheduler", other_scheduler},
    {"schedule", "class", "HeunDiscreteScheduler", other_scheduler},
    {"schedule", "class", "UniPCMultistepScheduler", other_scheduler},
    {"forward_noise", "class", "CogVideoXDDIMScheduler", other_scheduler},
    {"forward_noise", "class", "CogVideoXDPMScheduler", other_scheduler},
    {"forward_noise", "class", "DDIMScheduler", other_scheduler},
    {"forward_noise", "class", "DDPMScheduler", other_scheduler},
    {"forward_noise", "class", "DPMSolverMultistepScheduler", other_scheduler},
    {"forward_noise", "class", "EulerDiscreteScheduler", other_scheduler},
    {"forward_noise", "class", "EulerAncestralDiscreteScheduler", other_scheduler},
    {"forward_noise", "class", "FlowMatchHeunDiscreteScheduler", other_scheduler},
    {"forward_noise", "class", "HeunDiscreteScheduler", other_scheduler},
    {"forward_noise", "class", "UniPCMultistepScheduler", other_scheduler},
    {"posterior", NULL, NULL, ddpm},
    {"guidance_rescale", NULL, NULL, "guidance rescale belongs to later work"},
    {"loss_weighting_sd3", NULL, NULL, "loss weightings belong to later work"},
    {"analytic", NULL, NULL,
     "solvers of other classes belong to later work (flow Euler: tests/samplers/test_analytic)"},
    {"ddpm_sample", NULL, NULL, ddpm},
    {"ddpm_train", NULL, NULL, ddpm},
    {"real_configs", NULL, NULL, "published configurations belong to later work"},
    {"prompt_clean", NULL, NULL, "prompt cleaning belongs to later work"},
    {"autoencoder_kl", NULL, NULL, vae},
    {"autoencoder_kl_cogvideox", NULL, NULL, vae},
    {"autoencoder_kl_wan", NULL, NULL, vae},
    {"cogvideox_cfg", NULL, NULL, cogvideox},
    {"cogvideox_train", NULL, NULL, cogvideox},
    {"lora", NULL, NULL, "LoRA belongs to later work"},
    {"wan_train", NULL, NULL, "the WISA fine-tuning loop belongs to later work"},
    {"wan_pipeline", NULL, NULL, "UniPC and the Wan VAE belong to later work"},
};

/* "a.b" in nested objects. */
static const cJSON *lookup(const cJSON *config, const char *key)
{
    char part[64];
    const char *dot = strchr(key, '.');
    if (!dot)
        return cJSON_GetObjectItemCaseSensitive(config, key);
    size_t n = (size_t)(dot - key);
    if (n >= sizeof part)
        return NULL;
    memcpy(part, key, n);
    part[n] = '\0';
    return lookup(cJSON_GetObjectItemCaseSensitive(config, part), dot + 1);
}

const char *kin_golden_later(const char *kind, const cJSON *config)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const later_row *r = &rows[i];
        if (strcmp(r->kind, kind) != 0)
            continue;
        if (!r->key)
            return r->why;
        const cJSON *v = lookup(config, r->key);
        const char *text = cJSON_IsTrue(v) ? "true" : cJSON_GetStringValue(v);
        if (text && strcmp(text, r->value) == 0)
            return r->why;
    }
    return NULL;
}
