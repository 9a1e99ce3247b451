/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Request bodies: whatever comes in, the readers accept or name a field; what they accept can be
 * shown, and reads back to the same.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "controller/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int rc, const struct problem *problem)
{
	if ((rc != 0) != (problem->status != 0))
		abort();
	if (rc == 0)
		return;
	cJSON *json = problem_to_json(problem);
	char *text = cJSON_PrintUnformatted(json);
	if (text == NULL || problem->n_errors == 0)
		abort();
	free(text);
	cJSON_Delete(json);
}

static void fuzz_site(const cJSON *json)
{
	static const char *const mutable[] = {"core/mtu", "labels", NULL};
	struct problem problem = {0}, patch_problem = {0};
	struct site site, again;
	int rc = model_site_read(json, &site, &problem);
	check(rc, &problem);
	if (rc != 0)
		return;
	cJSON *shown = model_site_json(&site);
	if (model_site_read(shown, &again, &problem) != 0 ||
		memcmp(&site, &again, sizeof(site)) != 0)
		abort();
	cJSON_Delete(model_patch(shown, json, mutable, &patch_problem));
	cJSON_Delete(shown);
}

static void fuzz_port(const cJSON *json)
{
	struct problem problem = {0};
	struct port port, again;
	struct site site = {.asn = 65000};
	int rc = model_port_read(json, &port, &problem);
	check(rc, &problem);
	if (rc != 0)
		return;
	cJSON *shown = model_port_json(&port, &site, false);
	if (model_port_read(shown, &again, &problem) != 0 ||
		memcmp(&port, &again, sizeof(port)) != 0)
		abort();
	cJSON_Delete(shown);
}

static void fuzz_server(const cJSON *json)
{
	struct problem problem = {0};
	struct server server, again;
	int rc = model_server_read(json, &server, &problem);
	check(rc, &problem);
	if (rc != 0)
		return;
	cJSON *shown = model_server_json(&server);
	if (model_server_read(shown, &again, &problem) != 0 ||
		memcmp(&server, &again, sizeof(server)) != 0)
		abort();
	cJSON_Delete(shown);
}

static void fuzz_protection(const cJSON *json)
{
	struct problem problem = {0};
	struct protection_request request;
	int rc = model_protection_read(json, &request, &problem);
	check(rc, &problem);
	if (rc == 0 && request.standby[0] != '\0' &&
		(!request.has_standby || !model_name_valid(request.standby)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct problem problem = {0};
	struct customer customer;
	char site[MODEL_NAME_SIZE];
	cJSON *json = cJSON_ParseWithLength((const char *)data, size);
	if (json == NULL)
		return 0;
	fuzz_site(json);
	fuzz_port(json);
	fuzz_server(json);
	fuzz_protection(json);
	check(model_customer_read(json, &customer, &problem), &problem);
	problem = (struct problem){0};
	check(model_cvm_read(json, site, &problem), &problem);
	cJSON_Delete(json);
	return 0;
}
