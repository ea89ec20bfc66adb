/* training/config_finetune.c: what of a published video model is trained, by train.json. */
#include "training/section.h"

kin_status kin_section_finetune(const kin_section *root, kin_train_config *c)
{
    static const char *const keys[] = {"train", "lora", "insert_gap"};
    static const char *const known[] = {"rank", "alpha", "target_modules", NULL};
    static const char *const names[] = {"lora+phys", "lora", "phys", "full", "full+phys", NULL};
    kin_finetune *o = &c->finetune;
    int what = 0;
    kin_section s;
    for (int i = 0; i < 3 && !c->base; i++)
        if (cJSON_HasObjectItem(root->obj, keys[i]))
            return kin_fail(root->err, KIN_ERR_ARG,
                            "train config: %s needs init_from with a published Wan or CogVideoX "
                            "model",
                            keys[i]);
    if (!c->base)
        return KIN_OK;
    *o = kin_finetune_default(c->base);
    o->seed = c->seed;
    KIN_TRY(kin_section_pick(root, "train", names, &what));
    o->lora = what < 2;
    o->full = what > 2;
    o->physics = what == 0 || what == 2 || what == 4;
    KIN_TRY(kin_section_i64(root, "insert_gap", 0, 1 << 20, &o->insert_gap));
    if (!o->lora && cJSON_HasObjectItem(root->obj, "lora"))
        return kin_fail(root->err, KIN_ERR_ARG, "train config: lora needs train lora or lora+phys");
    if (!o->lora)
        return KIN_OK;
    KIN_TRY(kin_section_child(root, "lora", known, &s));
    KIN_TRY(kin_section_i64(&s, "rank", 1, 65536, &o->rank));
    KIN_TRY(kin_section_f64(&s, "alpha", 1e-6, 1e6, &o->alpha));
    return kin_section_str(&s, "target_modules", o->targets, sizeof o->targets, true);
}
