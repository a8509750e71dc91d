// Shows the OpenAPI description of this service in Swagger UI; loads nothing from other hosts.
const url = new URL("../schema/openapi.json", document.currentScript.src).href;
SwaggerUIBundle({ url, dom_id: "#api", deepLinking: true, validatorUrl: null });
