// Requests with the service's API key, which a person is asked for once, if the service wants one.
let key = "";

export async function authorised(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status !== 401) return response;
  key = prompt("This service wants an API key.") ?? "";
  return key ? authorised(path, options) : response;
}
